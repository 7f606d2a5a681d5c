"""Memory that is no longer used and that the C library's heap still keeps."""

from __future__ import annotations

import ctypes


def return_freed_memory() -> None:
    """Hand freed memory back to the system, which glibc would keep resident for as long as the process lives.

    Parsing a tokenizer of 49,152 tokens frees 25 MB, encoding a text of 1.5 MB more than 100.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
