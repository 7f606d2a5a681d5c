"""What the launcher needs of a GPU's driver, and how a driver library is called by ctypes."""

from __future__ import annotations

import ctypes
import threading
from abc import ABC, abstractmethod
from ctypes import byref, c_int, c_void_p
from dataclasses import dataclass
from typing import Any, Protocol

from kernels.gpu.refusals import DriverError, DriverTooOld, NoDriver
from kernels.gpu.tensor_map import TensorMap


@dataclass(frozen=True)
class Device:
    """A GPU and its driver: `arch` named as in kernels/gpu/target.py, `driver` the version of CUDA or HIP, (major, minor)."""

    name: str
    arch: str
    num_sms: int
    max_shared_bytes: int
    driver: tuple[int, int]

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability of a CUDA device; (0, 0) of another, which no cubin is for."""
        if not self.arch.startswith("sm_"):
            return 0, 0
        major, minor = divmod(int(self.arch.removeprefix("sm_")), 10)
        return major, minor


class Driver(Protocol):
    """What the launcher needs of a vendor's driver.

    `launch_kernel` takes function, grid x y z, block x y z, shared bytes, stream, parameters (one pointer each) and null, each
    as a ctypes value; it returns a status, 0 for success.
    """

    device: Device
    launch_kernel: Any

    def enter(self) -> None:
        """Makes the device current in the calling thread."""

    def load(self, image: bytes, entry: str, shared_bytes: int) -> c_void_p:
        """The function `entry` of an image, allowed `shared_bytes` of dynamic shared memory; loaded for good."""

    def tensor_map(self, request: TensorMap) -> bytes:
        """A tensor map, encoded."""

    def reaches(self, address: int) -> bool:
        """Whether kernels can read memory at `address`."""

    def error(self, call: str, status: int) -> DriverError:
        """What to raise for a status other than 0."""


class Binding(ABC):
    """A driver library. Arguments of calls are ctypes values; a call returns a status, 0 for success."""

    def __init__(self, library: str) -> None:
        """NoDriver where the library is not."""
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise NoDriver(f"frozen kernels need the GPU's driver; {error}. Install it, or serve on a CPU") from error
        self._thread = threading.local()

    @abstractmethod
    def error(self, call: str, status: int) -> DriverError:
        """The failure of a call, in the driver's words."""

    @abstractmethod
    def _make_current(self) -> None:
        """Makes the device current in the calling thread."""

    def enter(self) -> None:
        """Makes the device current in the calling thread, if this did not yet."""
        if not getattr(self._thread, "entered", False):
            self._make_current()
            self._thread.entered = True

    def _start(self, init: str, count: str, ordinal: int) -> None:
        """Initializes the library. NoDriver if it has no device `ordinal`."""
        if status := self._function(init)(ctypes.c_uint32(0)):
            raise NoDriver(f"frozen kernels need a GPU; {self.error(init, status)}")
        devices = self._int(count)
        if not 0 <= ordinal < devices:
            raise NoDriver(
                f"the device must be one of the {devices} that the driver sees, got {ordinal}; see CUDA_VISIBLE_DEVICES"
            )

    def _function(self, name: str) -> Any:
        try:
            return getattr(self._library, name)
        except AttributeError as error:
            raise DriverTooOld(f"the GPU's driver must have {name}, and this one lacks it; update the driver") from error

    def _call(self, name: str, *arguments: Any) -> None:
        if status := self._function(name)(*arguments):
            raise self.error(name, status)

    def _int(self, name: str, *arguments: Any) -> int:
        value = c_int()
        self._call(name, byref(value), *arguments)
        return value.value
