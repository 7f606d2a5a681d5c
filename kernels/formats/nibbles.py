"""Codes of 4 bits in the words of a CPU's row tiles: byte j of a u32 has k = j in its low nibble and k = j + 4 in its high one.

Shifts give single codes, and masking with 0x0f0f0f0f four consecutive ones for int8 dot products.
"""

from __future__ import annotations

import numpy as np

from kernels.spec import Array


def to_words(codes: Array) -> Array:
    """u8 codes [N, K] -> u32 [N, K/8]."""
    quads = np.ascontiguousarray(codes, np.uint8).view("<u4")
    return np.asarray(quads[:, 0::2] | (quads[:, 1::2] << np.uint32(4)))


def from_words(words: Array) -> Array:
    """The inverse of `to_words`."""
    pairs = words.astype(np.uint32, copy=False)
    quads = np.empty((words.shape[0], words.shape[1] * 2), "<u4")
    quads[:, 0::2] = pairs & np.uint32(0x0F0F0F0F)
    quads[:, 1::2] = (pairs >> np.uint32(4)) & np.uint32(0x0F0F0F0F)
    return quads.view(np.uint8)
