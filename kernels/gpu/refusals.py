"""Why a frozen kernel is not launched: one class per rule. Each message states the rule, the value and the fix."""

from __future__ import annotations

from kernels.refusal import Refusal


class KernelRefused(Refusal):
    """A frozen kernel, or a call of one, does not suit this device, this driver or its own signature."""


class NoDriver(KernelRefused):
    """The machine has no driver library for the GPU, or no GPU."""


class TableRefused(KernelRefused):
    """The table of frozen kernels is absent, malformed or of another version."""


class ImageDigestMismatch(KernelRefused):
    """An image's bytes are not those that its table names, or are not there."""


class ImageMalformed(KernelRefused):
    """An image is not a cubin of a kind that this code can judge."""


class SignatureMismatch(KernelRefused):
    """The parameters that an image expects are not those that its metadata describes."""


class CapabilityRefused(KernelRefused):
    """An image was compiled for GPUs that this device is not one of."""


class DriverTooOld(KernelRefused):
    """An image was assembled by a CUDA toolkit that is a major version ahead of the driver."""


class SharedMemoryRefused(KernelRefused):
    """A kernel needs more shared memory than one program may have on this device."""


class MissingKernel(KernelRefused):
    """No frozen kernel has the function, types, constants and options of a launch."""


class ArgumentMismatch(KernelRefused):
    """An argument is absent, or of another kind, type or range than the kernel's parameter."""


class MisalignedPointer(KernelRefused):
    """An address is not a multiple of what the kernel was compiled to rely on."""


class DescriptorRefused(KernelRefused):
    """A tensor map that the hardware cannot have."""


class GridRefused(KernelRefused):
    """A grid that is larger than the hardware's."""


class SelfTestFailed(KernelRefused):
    """A kernel ran and computed something else than the reference did when the kernels were frozen."""


class DriverError(RuntimeError):
    """A call of the driver failed. `status` is its error code."""

    def __init__(self, call: str, status: int, description: str) -> None:
        super().__init__(f"{call} failed with error {status}: {description}")
        self.status = status
