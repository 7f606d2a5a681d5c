"""What a compiled kernel says about itself before any GPU has run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import inf
from typing import Any, Self

from kernels.compile.amdgcn import parse_amdgcn
from kernels.compile.control_flow import natural_loops
from kernels.compile.cubin import machine_code
from kernels.compile.instructions import Instruction, Mix, UnreadableCode
from kernels.compile.occupancy import NUM_SCHEDULERS, Occupancy, multiprocessor, occupancy
from kernels.compile.sass import INSTRUCTION_BYTES, Resources, parse_resources, parse_sass
from kernels.compile.toolchain import disassemble, resource_usage

_TRIPS_PER_LEVEL = 8
_WORK_OF_AN_INSTRUCTION = 16


@dataclass(frozen=True)
class Loop:
    """A loop: where it begins, how deep it is nested (1 is outermost), and what its body executes.

    Every path through the body is counted; loops nested in it are not.
    """

    label: str
    depth: int
    mix: Mix

    @property
    def work(self) -> int:
        """Bytes that a lane reads from global memory in one iteration; a TMA load or a matrix instruction counts as 16."""
        instructions = self.mix.count("tensor", "tma_load")
        return self.mix.lane_bytes("global_load", "async_copy") + _WORK_OF_AN_INSTRUCTION * instructions


@dataclass(frozen=True)
class StaticRecord:
    """A kernel as compiled for `arch`, one block of which is `num_warps` warps and `shared_bytes` of shared memory."""

    arch: str
    num_warps: int
    shared_bytes: int
    registers: int
    """Per thread; on AMD VGPRs, accumulation registers among them."""
    accumulators: int
    """AMD accumulation registers."""
    scalar_registers: int
    """AMD SGPRs per wave."""
    stack_bytes: int
    """Local memory per thread. Not only spills need it: see `spills`."""
    code_bytes: int
    mix: Mix
    """The whole kernel."""
    loops: tuple[Loop, ...]

    @property
    def spills(self) -> int:
        """Instructions that move a register to or from memory for want of registers; AMD's moves of SGPRs to VGPRs are not."""
        return self.mix.count("spill")

    @cached_property
    def occupancy(self) -> Occupancy:
        return occupancy(
            self.arch,
            num_warps=self.num_warps,
            registers=self.registers,
            shared_bytes=self.shared_bytes,
            scalar_registers=self.scalar_registers,
        )

    @cached_property
    def hot_loop(self) -> Loop | None:
        """The loop that does most of the work if a nested loop runs 8 times per iteration of the loop around it.

        Work is `Loop.work`; among equals it is the loop of fewest instructions. So a wait that spins is never hot, the loop
        over K is hotter than the persistent loop around it, and a loop without a mask is hotter than the masked copy of it.
        None where no loop reads or multiplies.
        """
        working = [loop for loop in self.loops if loop.work]
        return max(working, key=lambda loop: (loop.work * _TRIPS_PER_LEVEL**loop.depth, -loop.mix.total), default=None)

    @property
    def uses_wgmma(self) -> bool:
        return self.mix.opcode("HGMMA", "QGMMA", "IGMMA", "BGMMA") > 0

    @property
    def uses_tcgen05(self) -> bool:
        return any(form.startswith("UTC") for form in self.mix.forms("tensor"))

    @property
    def uses_tma(self) -> bool:
        return self.mix.count("tma_load", "tma_store") > 0

    @property
    def uses_async_copy(self) -> bool:
        return self.mix.count("async_copy") > 0

    def streamed_bytes(self) -> int:
        """Bytes that a block loads from global memory per iteration of the hot loop, by the widths of its loads and copies.

        ValueError if there is no hot loop, or if it loads by TMA, whose instructions do not say how much.
        """
        loop = self._the_hot_loop()
        if loop.mix.count("tma_load"):
            raise ValueError("the bytes of a TMA load are in its descriptor, not in the instruction; give bytes_per_iteration")
        return loop.mix.lane_bytes("global_load", "async_copy") * multiprocessor(self.arch).warp_size * self.num_warps

    def issue_bound(self, *, clock_ghz: float, num_sms: int, bytes_per_iteration: int | None = None) -> float:
        """Bytes per second at which the kernel could stream if nothing but issuing instructions took time: a ceiling.

        Each of an SM's four schedulers issues one instruction a clock, so one iteration of the hot loop by all warps of a block
        takes an SM at least instructions x num_warps / 4 clocks, whatever else is resident. `bytes_per_iteration` is what the
        block needs from memory in an iteration, by default `streamed_bytes`. ValueError as there.
        """
        sm = multiprocessor(self.arch)
        issued = sum(row.count for row in self._the_hot_loop().mix.rows if row.form.startswith(sm.issue_prefix))
        if bytes_per_iteration is None:
            bytes_per_iteration = self.streamed_bytes()
        clocks = issued * self.num_warps * sm.cycles_per_instruction / NUM_SCHEDULERS
        return bytes_per_iteration / clocks * clock_ghz * 1e9 * num_sms if clocks else inf

    def _the_hot_loop(self) -> Loop:
        if self.hot_loop is None:
            raise ValueError(
                f"the issue bound is that of a loop that loads or multiplies; of {len(self.loops)} loops none does"
            )
        return self.hot_loop

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings, lists and dicts only; `from_json` reads it back. Derived values are not in it."""
        loops = [{"label": loop.label, "depth": loop.depth, "mix": loop.mix.to_json()} for loop in self.loops]
        return asdict(self) | {"mix": self.mix.to_json(), "loops": loops}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; UnreadableCode if `fields` are not those of a record."""
        try:
            loops = tuple(Loop(loop["label"], loop["depth"], Mix.from_json(loop["mix"])) for loop in fields["loops"])
            return cls(**(dict(fields) | {"mix": Mix.from_json(fields["mix"]), "loops": loops}))
        except (KeyError, TypeError) as error:
            raise UnreadableCode(f"a record has {', '.join(cls.__annotations__)}; {error}; take the record again") from error


@dataclass(frozen=True)
class KernelBinary:
    """A compiled kernel: a cubin for `sm_*`, assembly for `gfx*`; and what Triton's metadata says of a block of it."""

    image: bytes | str
    arch: str
    num_warps: int
    shared_bytes: int


def static_record(image: bytes | str, *, arch: str, num_warps: int, shared_bytes: int) -> StaticRecord:
    """The record of one kernel, as `static_records`."""
    return static_records([KernelBinary(image, arch, num_warps, shared_bytes)])[0]


def static_records(kernels: Sequence[KernelBinary]) -> list[StaticRecord]:
    """The record of each kernel. Those of one NVIDIA architecture are disassembled together: about 0.3 s, and 10 ms for each.

    Raises ToolchainMissing, ToolFailed and UnreadableCode; ValueError if an architecture is not known or an image not of it.
    """
    records: dict[int, StaticRecord] = {}
    cubins: dict[str, list[tuple[int, KernelBinary, bytes]]] = {}
    for index, kernel in enumerate(kernels):
        multiprocessor(kernel.arch)
        if isinstance(kernel.image, str) and kernel.arch.startswith("gfx"):
            records[index] = _amd_record(kernel, kernel.image)
        elif isinstance(kernel.image, bytes) and kernel.arch.startswith("sm_"):
            cubins.setdefault(kernel.arch, []).append((index, kernel, kernel.image))
        else:
            image = type(kernel.image).__name__
            raise ValueError(f"sm_* is read from a cubin (bytes), gfx* from assembly (str); got {image} for {kernel.arch}")
    for arch, members in cubins.items():
        texts = [machine_code(cubin) for _, _, cubin in members]
        codes = parse_sass(disassemble(b"".join(texts), arch), [len(text) for text in texts])
        for (index, kernel, cubin), code in zip(members, codes, strict=True):
            records[index] = _nvidia_record(kernel, parse_resources(resource_usage(cubin)), code)
    return [records[index] for index in range(len(kernels))]


def _nvidia_record(kernel: KernelBinary, resources: Resources, code: Sequence[Instruction]) -> StaticRecord:
    return StaticRecord(
        arch=kernel.arch,
        num_warps=kernel.num_warps,
        shared_bytes=kernel.shared_bytes,
        registers=resources.registers,
        accumulators=0,
        scalar_registers=0,
        stack_bytes=resources.stack_bytes,
        code_bytes=len(code) * INSTRUCTION_BYTES,
        mix=Mix.of(code),
        loops=_loops(code, {}),
    )


def _amd_record(kernel: KernelBinary, assembly: str) -> StaticRecord:
    read = parse_amdgcn(assembly)
    return StaticRecord(
        arch=kernel.arch,
        num_warps=kernel.num_warps,
        shared_bytes=kernel.shared_bytes,
        registers=read.registers,
        accumulators=read.accumulators,
        scalar_registers=read.scalar_registers,
        stack_bytes=read.stack_bytes,
        code_bytes=read.code_bytes,
        mix=Mix.of(read.code),
        loops=_loops(read.code, read.labels),
    )


def _loops(code: Sequence[Instruction], labels: Mapping[int, str]) -> tuple[Loop, ...]:
    return tuple(Loop(labels.get(loop.header, hex(loop.header)), loop.depth, Mix.of(loop.own)) for loop in natural_loops(code))
