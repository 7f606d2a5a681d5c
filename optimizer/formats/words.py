"""Codes in the 32-bit words of compressed-tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def words(codes: NDArray[Any], bits: int) -> torch.Tensor:
    """u8 codes [N, K] -> i32 [N, ceil(K bits / 32)], the first of a row in the lowest bits."""
    per_word = 32 // bits
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per_word)))
    octets = padded if bits == 8 else padded[:, 0::2] | (padded[:, 1::2] << np.uint8(4))
    return torch.from_numpy(np.ascontiguousarray(octets).view("<i4").copy())


def copied(part: NDArray[Any] | None) -> torch.Tensor:
    """A part of a matrix that it has, as a tensor of its own."""
    assert part is not None
    return torch.from_numpy(part.copy())
