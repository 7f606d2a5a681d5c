"""A kernel that says which tokens may be drawn: what the tests of truncation launch."""

import triton
import triton.language as tl

from kernels.sampling.triton import key_of, load_logits, truncate


@triton.jit
def support_kernel(
    x_ptr,
    kept_ptr,
    values_ptr,
    ids_ptr,
    temperature,
    top_k,
    top_p,
    min_p,
    V: tl.constexpr,
    CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """kept i32 [V]: 1 for tokens that truncation leaves. WHOLE is a power of two of at least V, BLOCK may be less."""
    num = tl.full((), V, tl.int32)
    maxima = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, num, BLOCK):
        maxima = tl.maximum(maxima, load_logits(x_ptr, start, num, BLOCK))
    peak = tl.max(maxima, axis=0)
    rate = 1.4426950408889634 / temperature
    last, quota, _ = truncate(x_ptr, values_ptr, ids_ptr, num, maxima, peak, rate, top_k, top_p, min_p, CAPACITY, BLOCK)
    x = load_logits(x_ptr, 0, num, WHOLE)
    tied = (key_of(x, peak) == last).to(tl.int32)
    kept = (key_of(x, peak) < last) | ((tied == 1) & (tl.cumsum(tied, axis=0) <= quota))
    at = tl.arange(0, WHOLE)
    tl.store(kept_ptr + at, kept.to(tl.int32), mask=at < V)
