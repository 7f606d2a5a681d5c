"""Whether a frozen kernel suits a device: all that can be refused before anything is loaded. Pure."""

from __future__ import annotations

from kernels.gpu.arguments import parameter_bytes
from kernels.gpu.cubin import Cubin
from kernels.gpu.driver import Device
from kernels.gpu.frozen import FrozenKernel
from kernels.gpu.refusals import CapabilityRefused, DriverTooOld, SharedMemoryRefused, SignatureMismatch
from kernels.gpu.target import ARCHS


def check(kernel: FrozenKernel, device: Device) -> None:
    """SignatureMismatch, CapabilityRefused, DriverTooOld, SharedMemoryRefused or ImageMalformed for the first rule broken.

    Of an AMD image only architecture and LDS are checked here; its loader checks the rest.
    """
    arch = ARCHS[kernel.source.arch]
    if kernel.metadata.arch != arch.name:
        raise SignatureMismatch(
            f"{kernel.where} must be for one architecture; it is for {arch.name} by its source and for {kernel.metadata.arch} "
            "by its metadata; freeze it again"
        )
    if arch.backend == "cuda":
        _check_cubin(kernel, device)
    elif arch.name != device.arch:
        raise CapabilityRefused(
            f"{kernel.where} is for {arch.name} only, and {device.name} is {device.arch}; freeze for {device.arch}"
        )
    if kernel.metadata.shared_bytes > device.max_shared_bytes:
        raise SharedMemoryRefused(
            f"{kernel.where} needs {kernel.metadata.shared_bytes} bytes of shared memory, "
            f"and a program on {device.name} may have {device.max_shared_bytes}; tune it for this device"
        )


def _check_cubin(kernel: FrozenKernel, device: Device) -> None:
    cubin, metadata = Cubin.parse(kernel.image), kernel.metadata
    if metadata.entry not in cubin.entries:
        raise SignatureMismatch(
            f"{kernel.where} must be {metadata.entry} in its image, which has {', '.join(cubin.entries)}; freeze it again"
        )
    entry = cubin.entries[metadata.entry]
    built_for = f"sm_{cubin.capability[0]}{cubin.capability[1]}"
    if built_for != metadata.arch:
        raise SignatureMismatch(
            f"{kernel.where} is for {metadata.arch} by its metadata and for {built_for} by its image; freeze it again"
        )
    if tuple(parameter.size for parameter in entry.parameters) != parameter_bytes(metadata):
        raise SignatureMismatch(
            f"{kernel.where} must take parameters of {parameter_bytes(metadata)} bytes by its metadata; "
            f"its image takes {tuple(parameter.size for parameter in entry.parameters)}; freeze it again"
        )
    if metadata.profile_scratch_bytes:
        raise SignatureMismatch(
            f"{kernel.where} must not be instrumented; it wants memory for a profiler; freeze it without one"
        )
    if entry.num_threads != 32 * metadata.num_warps:
        raise SignatureMismatch(
            f"{kernel.where} has {metadata.num_warps} warps by its metadata, {entry.num_threads} threads by its image; "
            "freeze it again"
        )
    if not cubin.runs_on(device.capability):
        rule = (
            "on that compute capability only"
            if cubin.locked
            else "on that compute capability or a later one of the same major version"
        )
        raise CapabilityRefused(
            f"{kernel.where} is for {built_for}: it runs {rule}, and {device.name} is {device.arch}; freeze for it"
        )
    # CUDA's minor version compatibility: a driver loads what any toolkit of its major version assembled.
    if entry.toolkit[0] > device.driver[0]:
        raise DriverTooOld(
            f"{kernel.where} was assembled by CUDA {_dotted(entry.toolkit)} (ELF ABI {cubin.abi}), which needs a driver of "
            f"CUDA {entry.toolkit[0]}.0 or later, and this one is of {_dotted(device.driver)}; update the driver, "
            f"or freeze with ptxas of CUDA {device.driver[0]} (TRITON_PTXAS_PATH names it)"
        )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
