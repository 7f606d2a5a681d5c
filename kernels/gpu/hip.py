"""AMD's HIP runtime, by ctypes, behind the same interface as CUDA's driver.

Numbers are those of hip_runtime_api.h of ROCm 6, as Triton ships it. Tested against a stand-in library that the tests build;
no GPU has run it.
"""

from __future__ import annotations

from ctypes import byref, c_char_p, c_int, c_uint64, c_void_p, create_string_buffer

from kernels.gpu.driver import Binding, Device
from kernels.gpu.refusals import DescriptorRefused, DriverError
from kernels.gpu.tensor_map import TensorMap

_MULTIPROCESSOR_COUNT = 63
_MAX_SHARED_MEMORY_PER_BLOCK = 74
_POINTER_ATTRIBUTE_DEVICE_POINTER = 3
# hipDeviceProp_tR0600: its size, and the field gcnArchName, such as "gfx942:sramecc+:xnack-".
_PROPERTIES_BYTES = 1472
_ARCH_NAME = slice(1160, 1416)


class HipDriver(Binding):
    """The HIP device `ordinal`. NoDriver without library or device; DriverError where a call fails."""

    def __init__(self, ordinal: int = 0, library: str = "libamdhip64.so") -> None:
        super().__init__(library)
        self._function("hipGetErrorString").restype = c_char_p
        self._start("hipInit", "hipGetDeviceCount", ordinal)
        self._ordinal = c_int(ordinal)
        name, properties = create_string_buffer(256), create_string_buffer(_PROPERTIES_BYTES)
        self._call("hipDeviceGetName", name, c_int(len(name)), self._ordinal)
        self._call("hipGetDevicePropertiesR0600", properties, self._ordinal)
        num_sms, max_shared_bytes = (
            self._int("hipDeviceGetAttribute", c_int(attribute), self._ordinal)
            for attribute in (_MULTIPROCESSOR_COUNT, _MAX_SHARED_MEMORY_PER_BLOCK)
        )
        version = self._int("hipDriverGetVersion")
        arch = properties.raw[_ARCH_NAME].split(b"\0")[0].decode().split(":")[0]
        driver = (version // 10_000_000, version // 100_000 % 100)
        self.device = Device(name.value.decode(), arch, num_sms, max_shared_bytes, driver)
        self.launch_kernel = self._function("hipModuleLaunchKernel")

    def load(self, image: bytes, entry: str, shared_bytes: int) -> c_void_p:
        """The function `entry` of a code object. LDS needs no permission."""
        self.enter()
        module, function = c_void_p(), c_void_p()
        self._call("hipModuleLoadData", byref(module), c_char_p(image))
        self._call("hipModuleGetFunction", byref(function), module, c_char_p(entry.encode()))
        return function

    def tensor_map(self, request: TensorMap) -> bytes:
        """DescriptorRefused: there is no such hardware, and kernels for AMD take descriptors in parts."""
        raise DescriptorRefused(f"tensor maps are NVIDIA's, and {self.device.name} has none; compile for {self.device.arch}")

    def reaches(self, address: int) -> bool:
        """Whether the device can read memory at `address`."""
        self.enter()
        function = self._function("hipPointerGetAttribute")
        return int(function(byref(c_uint64()), c_int(_POINTER_ATTRIBUTE_DEVICE_POINTER), c_uint64(address))) == 0

    def error(self, call: str, status: int) -> DriverError:
        """The failure of a call, in the runtime's words."""
        text: bytes | None = self._library.hipGetErrorString(c_int(status))
        return DriverError(call, status, text.decode() if text else "unknown error")

    def _make_current(self) -> None:
        self._call("hipSetDevice", self._ordinal)
