"""Runs launches through frozen kernels on a GPU: the same interface as the interpreter, and neither Triton nor a compiler.

Tested against a stand-in driver that the tests build; no GPU has run it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from ctypes import c_uint32, c_void_p, create_string_buffer
from math import prod
from typing import TypeAlias

import torch

from kernels.gpu import fit
from kernels.gpu.arguments import Memory, pack
from kernels.gpu.driver import Driver
from kernels.gpu.frozen import FrozenKernel, FrozenKernels
from kernels.gpu.kernel_source import KernelSource
from kernels.gpu.launch import Descriptor, Launch, OpPlan, Ptr, TensorMeta
from kernels.gpu.refusals import ArgumentMismatch, GridRefused, MisalignedPointer
from kernels.gpu.target import ARCHS
from kernels.gpu.tensor_map import TENSOR_MAP_ALIGNMENT, TENSOR_MAP_BYTES
from kernels.gpu.tensors import empty, meta

Allocate: TypeAlias = Callable[[TensorMeta], torch.Tensor]

# Limits of CUDA and HIP alike.
_MAX_GRID = (2**31 - 1, 65535, 65535)


class _Parameters:
    """Values of a kernel's parameters at fixed addresses, and the array of pointers to them that the driver reads."""

    def __init__(self, values: tuple[bytes, ...]) -> None:
        offsets, end = [], 0
        for value in values:
            aligned = TENSOR_MAP_ALIGNMENT if len(value) == TENSOR_MAP_BYTES else len(value)
            offsets.append(-(-end // aligned) * aligned)
            end = offsets[-1] + len(value)
        self._memory = create_string_buffer(end + TENSOR_MAP_ALIGNMENT)
        address = ctypes.addressof(self._memory)
        base = address + -address % TENSOR_MAP_ALIGNMENT
        for offset, value in zip(offsets, values, strict=True):
            ctypes.memmove(base + offset, value, len(value))
        self.pointers = (c_void_p * len(values))(*(base + offset for offset in offsets))


class Prepared:
    """The launches of a plan over fixed tensors, which it keeps alive. One thread at a time may run it."""

    def __init__(
        self,
        driver: Driver,
        launches: list[tuple[str, c_void_p, tuple[c_uint32, ...], _Parameters]],
        memory: list[torch.Tensor],
    ) -> None:
        self._driver = driver
        self._launches = launches
        self._memory = memory

    def run(self, stream: int = 0) -> None:
        """Enqueues every launch in order on a stream (its handle), without waiting. DriverError if one is refused.

        May be captured into a graph. Runs of one Prepared must not overlap: they share its workspaces.
        """
        self._driver.enter()
        handle, launch = c_void_p(stream), self._driver.launch_kernel
        for where, function, shape, parameters in self._launches:
            if status := launch(function, *shape, handle, parameters.pointers, None):
                raise self._driver.error(f"the launch of {where}", status)


class Launcher:
    """Frozen kernels loaded on a device. All are checked and loaded here: KernelRefused before anything is launched.

    `allocate` makes zeroed memory on the device for workspaces and scratch, ordered with the stream that plans run on; by
    default it is torch's, on the current stream.
    """

    def __init__(
        self, driver: Driver, frozen: FrozenKernels, allocate: Allocate = lambda wanted: empty(wanted, "cuda")
    ) -> None:
        for kernel in frozen.kernels.values():
            fit.check(kernel, driver.device)
        self._driver = driver
        self._frozen = frozen
        self._allocate = allocate
        self._warp_size = ARCHS[frozen.arch].warp_size
        self._functions = {
            identity: driver.load(kernel.image, kernel.metadata.entry, kernel.metadata.shared_bytes)
            for identity, kernel in frozen.kernels.items()
        }

    def run(self, plan: OpPlan, tensors: Mapping[str, torch.Tensor | None], stream: int = 0) -> None:
        """Every launch in order, over `tensors` by name. KernelRefused as `prepare`."""
        self.prepare(plan, tensors).run(stream)

    def prepare(self, plan: OpPlan, tensors: Mapping[str, torch.Tensor | None]) -> Prepared:
        """`plan` bound to `tensors`, its workspaces allocated, every argument checked and packed.

        MissingKernel, ArgumentMismatch, MisalignedPointer, DescriptorRefused or GridRefused for what could not be launched.
        """
        present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        present |= {name: self._allocate(wanted) for name, wanted in plan.workspaces.items()}
        memory = {name: Memory(tensor.data_ptr(), meta(tensor)) for name, tensor in present.items()}
        for name, of in memory.items():
            if of.meta.nbytes and not self._driver.reaches(of.address):
                raise ArgumentMismatch(
                    f"tensor {name} must be on {self._driver.device.name}; it lies elsewhere, at {of.address:#x}"
                )
        kept = list(present.values())
        launches = []
        for launch in plan.launches:
            if 0 in launch.grid:
                continue
            kernel, function = self._find(launch, memory)
            _check_grid(kernel, launch)
            scratch = self._scratch(kernel, launch)
            kept += [scratch] if scratch is not None else []
            values = pack(
                kernel.metadata, launch, memory, self._driver.tensor_map, 0 if scratch is None else scratch.data_ptr()
            )
            shape = (*launch.grid, self._warp_size * kernel.metadata.num_warps, 1, 1, kernel.metadata.shared_bytes)
            launches.append((kernel.where, function, tuple(map(c_uint32, shape)), _Parameters(values)))
        return Prepared(self._driver, launches, kept)

    def _find(self, launch: Launch, memory: Mapping[str, Memory]) -> tuple[FrozenKernel, c_void_p]:
        named = {argument.tensor for argument in launch.arguments.values() if isinstance(argument, Ptr | Descriptor)}
        if absent := sorted(named - memory.keys()):
            has = ", ".join(sorted(memory))
            raise ArgumentMismatch(
                f"{launch.op}.{launch.function} is over {', '.join(absent)}, and the call has {has}; pass it"
            )
        source = KernelSource.of(launch, {name: of.meta for name, of in memory.items()}, self._frozen.arch)
        return self._frozen.find(source), self._functions[source.identity]

    def _scratch(self, kernel: FrozenKernel, launch: Launch) -> torch.Tensor | None:
        """Memory that the kernel itself asks for, per program."""
        size, align = kernel.metadata.global_scratch_bytes, kernel.metadata.global_scratch_align
        if not size:
            return None
        scratch = self._allocate(TensorMeta.contiguous("u8", size * prod(launch.grid)))
        if scratch.data_ptr() % align:
            raise MisalignedPointer(
                f"scratch of {kernel.where} must be a multiple of {align} bytes; got {scratch.data_ptr():#x}"
            )
        return scratch


def _check_grid(kernel: FrozenKernel, launch: Launch) -> None:
    if any(not 0 < programs <= limit for programs, limit in zip(launch.grid, _MAX_GRID, strict=True)):
        raise GridRefused(f"a grid is at most {_MAX_GRID}; {kernel.where} is planned with {launch.grid}; plan larger programs")
