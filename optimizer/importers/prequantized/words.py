"""Codes in 32-bit words."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

#: number of bits of a code that divides a byte or fills it
Bits = Literal[4, 8]
KINDS: dict[Bits, Literal["uint4", "uint8"]] = {4: "uint4", 8: "uint8"}


def unpack_words(words: NDArray[Any], bits: Bits) -> NDArray[np.uint8]:
    """i32 [A, B] -> u8 [A, 32 B / bits]: the first code of a word is in its lowest bits."""
    octets = np.ascontiguousarray(words, "<i4").view(np.uint8)
    if bits == 8:
        return octets
    return np.stack((octets & np.uint8(15), octets >> np.uint8(4)), axis=-1).reshape(octets.shape[0], -1)
