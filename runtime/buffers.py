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
#: a huge page of x86-64, from which on memory is asked for in such pages
HUGE_PAGE_BYTES = 2 << 20
#: Linux 5.14 or later: pages are there before they are written to. Not in Python's mmap yet.
_MADV_POPULATE_WRITE = 23


def zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """As np.zeros, and the first element lies at a multiple of ALIGNMENT_BYTES.

    What is as large as a huge page is there at once, in huge pages where the system gives them: a step that is the first to write
    to a block of the KV cache would wait for its pages.
    """
    count = math.prod(shape)
    size = count * np.dtype(dtype).itemsize
    if size < HUGE_PAGE_BYTES:
        room = np.zeros(size + ALIGNMENT_BYTES, np.uint8)
        start = -room.ctypes.data % ALIGNMENT_BYTES
        return room[start : start + size].view(dtype).reshape(shape)
    pages = mmap.mmap(-1, size)
    for advice in (getattr(mmap, "MADV_HUGEPAGE", None), _MADV_POPULATE_WRITE):
        with suppress(OSError):  # a system without it: pages come when they are written to
            if advice is not None:
                pages.madvise(advice)
    return np.frombuffer(pages, dtype, count).reshape(shape)
