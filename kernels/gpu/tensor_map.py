"""From a descriptor of a launch to what the driver encodes for the copy hardware (TMA).

The limits are those of cuTensorMapEncodeTiled in the CUDA driver API reference; how a descriptor becomes its arguments is in
docs/kernel-abi.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.gpu.binary import TensorMapMetadata
from kernels.gpu.launch import DTYPES, Descriptor, TensorMeta
from kernels.gpu.refusals import DescriptorRefused

#: Bytes of an encoded tensor map, and what its address must be a multiple of.
TENSOR_MAP_BYTES = 128
TENSOR_MAP_ALIGNMENT = 128

_MAX_RANK = 5
_MAX_EXTENT = 1 << 32
_MAX_STRIDE_BYTES = 1 << 40
_MAX_BOX = 256
_GRAIN_BYTES = 16
_SWIZZLE_BYTES = (None, 32, 64, 128)

#: The contract's dtypes -> CUtensorMapDataType.
DATA_TYPES = {"u8": 0, "i8": 0, "e4m3": 0, "u32": 2, "i32": 3, "i64": 5, "f16": 6, "f32": 7, "bf16": 9}


@dataclass(frozen=True)
class TensorMap:
    """Arguments of cuTensorMapEncodeTiled, innermost dimension first; strides in bytes, without the innermost."""

    data_type: int
    address: int
    shape: tuple[int, ...]
    strides_bytes: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int
    last_element_bytes: int
    """From the first element to the last."""


def check(descriptor: Descriptor, meta: TensorMeta) -> None:
    """DescriptorRefused if no kernel can take the descriptor over that tensor, in hardware or decomposed."""
    shape, strides, itemsize = descriptor.shape, descriptor.strides, DTYPES[meta.dtype][0]
    if not 1 <= len(shape) <= _MAX_RANK or not len(shape) == len(strides) == len(descriptor.block_shape):
        raise _refused(descriptor, f"shape, strides and block shape have the same rank, 1 to {_MAX_RANK}")
    if not all(1 <= extent <= _MAX_EXTENT for extent in shape):
        raise _refused(descriptor, f"every extent is 1 to {_MAX_EXTENT}")
    if strides[-1] != 1:
        raise _refused(descriptor, "the last stride is 1")
    if any(stride < 0 or stride * itemsize % _GRAIN_BYTES or stride * itemsize >= _MAX_STRIDE_BYTES for stride in strides[:-1]):
        raise _refused(
            descriptor, f"strides but the last are multiples of {_GRAIN_BYTES} bytes, below {_MAX_STRIDE_BYTES} bytes"
        )
    if _span(shape, strides) > _span(meta.shape, meta.strides):
        raise _refused(descriptor, f"it lies within its tensor, of shape {meta.shape} and strides {meta.strides}")


def tensor_map(descriptor: Descriptor, meta: TensorMeta, address: int, metadata: TensorMapMetadata) -> TensorMap:
    """What to encode for a descriptor over the tensor at `address`, as the kernel wants it. DescriptorRefused as `check`."""
    check(descriptor, meta)
    itemsize = DTYPES[meta.dtype][0]
    if meta.dtype not in DATA_TYPES:
        raise _refused(descriptor, f"its elements are one of {', '.join(DATA_TYPES)}")
    if address % _GRAIN_BYTES:
        raise _refused(descriptor, f"its address, {address:#x}, is a multiple of {_GRAIN_BYTES}")
    box, rank = metadata.box, len(descriptor.shape)
    if len(box) != rank or not all(1 <= extent <= _MAX_BOX for extent in box):
        raise _refused(descriptor, f"its box, {box}, has {rank} extents of 1 to {_MAX_BOX}")
    inner_bytes = box[-1] * itemsize
    if inner_bytes % _GRAIN_BYTES:
        raise _refused(descriptor, f"a row of its box, {inner_bytes} bytes, is a multiple of {_GRAIN_BYTES}")
    if not 0 <= metadata.swizzle < len(_SWIZZLE_BYTES):
        raise _refused(descriptor, f"its swizzle, {metadata.swizzle}, is 0 to {len(_SWIZZLE_BYTES) - 1}")
    limit = _SWIZZLE_BYTES[metadata.swizzle]
    if limit is not None and inner_bytes > limit:
        raise _refused(descriptor, f"a row of its box, {inner_bytes} bytes, is at most its swizzle of {limit}")
    return TensorMap(
        DATA_TYPES[meta.dtype],
        address,
        tuple(reversed(descriptor.shape)),
        tuple(stride * itemsize for stride in reversed(descriptor.strides[:-1])),
        tuple(reversed(box)),
        metadata.swizzle,
        (_span(descriptor.shape, descriptor.strides) - 1) * itemsize,
    )


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first to the last."""
    if 0 in shape:
        return 0
    return 1 + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))


def _refused(descriptor: Descriptor, rule: str) -> DescriptorRefused:
    seen = f"shape {descriptor.shape}, strides {descriptor.strides}, block shape {descriptor.block_shape}"
    return DescriptorRefused(
        f"of a descriptor over {descriptor.tensor} ({seen}): {rule}; plan the launch with pointers instead"
    )
