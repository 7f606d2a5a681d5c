"""Memory that a run frees: most of it is asked for again at once."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
#: the most that glibc allows
_LARGEST_KEPT_BYTES = 32 << 20


def keep_freed_memory() -> None:
    """Has glibc keep what is freed, where there is glibc.

    Quantizing and scoring make and drop arrays of some MB all the time; mapped anew each time, every page of them is a fault:
    a quarter of the CPU time of quantizing.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
