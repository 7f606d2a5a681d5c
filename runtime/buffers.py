"""Memory that kernels work in."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

#: a cache line, and a vector register: where one begins, loads and stores touch one line and not two
ALIGNMENT_BYTES = 64
#: Linux 5.14 or later: pages are there before they are written to. Not in Python's mmap yet.
_MADV_POPULATE_WRITE = 23
#: Python's lock is held while pages come; between two parts of a cache other threads go on, such as those of a server.
_PART_BYTES = 16 << 20


def zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """As np.zeros, and the first element lies at a multiple of ALIGNMENT_BYTES."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.zeros(size + ALIGNMENT_BYTES, np.uint8)
    start = -room.ctypes.data % ALIGNMENT_BYTES
    return room[start : start + size].view(dtype).reshape(shape)


def resident_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """As `zeros`, in memory that is there at once, in huge pages where the system gives them.

    For the KV cache: a step that is the first to write to a block would wait for its pages.
    """
    count = math.prod(shape)
    pages = mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize))
    with suppress(OSError):  # a system without it: small pages, or those that come when they are written to
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        for start in range(0, len(pages), _PART_BYTES):
            pages.madvise(_MADV_POPULATE_WRITE, start, min(_PART_BYTES, len(pages) - start))
    return np.frombuffer(pages, dtype, count).reshape(shape)
