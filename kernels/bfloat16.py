"""bfloat16 in numpy, which has no such type: arrays of its bits as uint16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bits of `x` rounded to nearest, ties to even; a NaN stays one."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, (bits >> 16) | 0x40, rounded).astype(np.uint16)


def from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The exact fp32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
