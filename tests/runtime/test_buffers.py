"""Buffers begin at a cache line, hold zeros, and, where it is asked for, are there before they are written to."""

from __future__ import annotations

import resource
from collections.abc import Callable

import numpy as np
import pytest

from runtime.buffers import ALIGNMENT_BYTES, resident_zeros, zeros


@pytest.mark.parametrize("make", [zeros, resident_zeros])
@pytest.mark.parametrize("shape", [(0,), (3,), (7, 5), (3, 2 << 20)])
@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_buffer_is_of_zeros_and_aligned(make: Callable[..., np.ndarray], shape: tuple[int, ...], dtype: type) -> None:
    buffer = make(shape, dtype)
    assert buffer.shape == shape and buffer.dtype == dtype and not buffer.any()
    assert buffer.ctypes.data % ALIGNMENT_BYTES == 0 or not buffer.size
    buffer[...] = 1
    assert buffer.all()


def test_writing_to_a_resident_buffer_waits_for_no_page() -> None:
    buffer = resident_zeros((32 << 20,), np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffer[:: resource.getpagesize()] = 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 100
