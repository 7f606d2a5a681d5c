"""The CUDA driver, by ctypes: devices, modules, functions, tensor maps. Needs libcuda.so.1, and neither Triton nor torch.

Tested against a stand-in library that the tests build; no GPU has run it.
"""

from __future__ import annotations

from ctypes import addressof, byref, c_char_p, c_int, c_uint32, c_uint64, c_void_p, create_string_buffer

from kernels.gpu.driver import Binding, Device
from kernels.gpu.refusals import DriverError
from kernels.gpu.tensor_map import TENSOR_MAP_ALIGNMENT, TENSOR_MAP_BYTES, TensorMap

# Numbers of cuda.h.
_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76
_MULTIPROCESSOR_COUNT = 16
_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97
_FUNC_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
_FUNC_CACHE_PREFER_SHARED = 1
_POINTER_ATTRIBUTE_DEVICE_POINTER = 3
_INTERLEAVE_NONE = 0
_L2_PROMOTION_128B = 2
_OOB_FILL_ZEROS = 0

# What a kernel may use without asking.
_DEFAULT_SHARED_BYTES = 48 * 1024
# Drivers up to this version set a bit that small tensors must not have (CUTLASS and Triton clear it likewise).
_LAST_DRIVER_WITH_WRONG_BIT = (13, 1)
_SMALL_TENSOR_BYTES = 128 * 1024
_WRONG_BIT_BYTE, _WRONG_BIT_MASK = 10, 0x20


class CudaDriver(Binding):
    """The CUDA device `ordinal` and its primary context, which torch uses too.

    NoDriver without library or device; DriverError where a call fails.
    """

    def __init__(self, ordinal: int = 0, library: str = "libcuda.so.1") -> None:
        super().__init__(library)
        self._start("cuInit", "cuDeviceGetCount", ordinal)
        device = c_int(self._int("cuDeviceGet", c_int(ordinal)))
        name = create_string_buffer(256)
        self._call("cuDeviceGetName", name, c_int(len(name)), device)
        major, minor, num_sms, max_shared_bytes = (
            self._int("cuDeviceGetAttribute", c_int(attribute), device)
            for attribute in (
                _COMPUTE_CAPABILITY_MAJOR,
                _COMPUTE_CAPABILITY_MINOR,
                _MULTIPROCESSOR_COUNT,
                _MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )
        )
        version = self._int("cuDriverGetVersion")
        driver = (version // 1000, version % 1000 // 10)
        self.device = Device(name.value.decode(), f"sm_{major}{minor}", num_sms, max_shared_bytes, driver)
        self._context = c_void_p()
        self._call("cuDevicePrimaryCtxRetain", byref(self._context), device)
        self.launch_kernel = self._function("cuLaunchKernel")

    def _make_current(self) -> None:
        self._call("cuCtxSetCurrent", self._context)

    def load(self, image: bytes, entry: str, shared_bytes: int) -> c_void_p:
        """The function `entry` of a cubin, allowed `shared_bytes` of dynamic shared memory."""
        self.enter()
        module, function = c_void_p(), c_void_p()
        self._call("cuModuleLoadData", byref(module), c_char_p(image))
        self._call("cuModuleGetFunction", byref(function), module, c_char_p(entry.encode()))
        if shared_bytes > _DEFAULT_SHARED_BYTES:
            self._call("cuFuncSetCacheConfig", function, c_int(_FUNC_CACHE_PREFER_SHARED))
            self._call("cuFuncSetAttribute", function, c_int(_FUNC_MAX_DYNAMIC_SHARED_SIZE_BYTES), c_int(shared_bytes))
        return function

    def tensor_map(self, request: TensorMap) -> bytes:
        """The 128 bytes of a CUtensorMap."""
        self.enter()
        memory = create_string_buffer(TENSOR_MAP_BYTES + TENSOR_MAP_ALIGNMENT)
        start = -addressof(memory) % TENSOR_MAP_ALIGNMENT
        rank = len(request.shape)
        self._call(
            "cuTensorMapEncodeTiled",
            c_void_p(addressof(memory) + start),
            c_int(request.data_type),
            c_uint32(rank),
            c_void_p(request.address),
            (c_uint64 * rank)(*request.shape),
            (c_uint64 * rank)(*request.strides_bytes),
            (c_uint32 * rank)(*request.box),
            (c_uint32 * rank)(*[1] * rank),
            c_int(_INTERLEAVE_NONE),
            c_int(request.swizzle),
            c_int(_L2_PROMOTION_128B),
            c_int(_OOB_FILL_ZEROS),
        )
        encoded = bytearray(memory.raw[start : start + TENSOR_MAP_BYTES])
        if self.device.driver <= _LAST_DRIVER_WITH_WRONG_BIT and request.last_element_bytes + 1 < _SMALL_TENSOR_BYTES:
            encoded[_WRONG_BIT_BYTE] &= ~_WRONG_BIT_MASK
        return bytes(encoded)

    def reaches(self, address: int) -> bool:
        """Whether the device can read memory at `address`."""
        self.enter()
        function = self._function("cuPointerGetAttribute")
        return int(function(byref(c_uint64()), c_int(_POINTER_ATTRIBUTE_DEVICE_POINTER), c_uint64(address))) == 0

    def error(self, call: str, status: int) -> DriverError:
        """The failure of a call, in the driver's words."""
        text = c_char_p()
        known = self._library.cuGetErrorString(c_int(status), byref(text)) == 0 and text.value is not None
        return DriverError(call, status, text.value.decode() if known and text.value else "unknown error")
