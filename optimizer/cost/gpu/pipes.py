"""Pipes of an SM, and how their times join."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SCHEDULERS = 4
"""Of an SM (SIMDs of a CU): each issues one instruction a clock."""
SHARED_BYTES_PER_CLOCK = 128
EXP2_PER_CLOCK = 16
"""Of an SM's special function units; a CU's do as many."""


def join(exponent: float, *times: Array) -> Array:
    """The time of pipes that overlap imperfectly: more than the largest, less than the sum; a p-norm."""
    largest = np.maximum.reduce(np.broadcast_arrays(*times))
    joined: Array = largest * np.add.reduce([(time / largest) ** exponent for time in times]) ** (1 / exponent)
    return joined
