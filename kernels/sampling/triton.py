"""Sampling without sorting: one program per row. A logit's place is its key, its distance from the largest as an integer, so
that a filter is a threshold on keys, found by bisection over counts or masses.

To bisect over a few hundred logits and not over the whole vocabulary, the maxima of BLOCK interleaved parts of the row bound
the threshold first: k of them that are above a bound are k logits above it. What passes that bound is compacted into a
workspace; if it does not fit, which takes a nearly flat distribution, the row itself is searched.
"""

import triton
import triton.language as tl

_LAST_FINITE_KEY = tl.constexpr(0x7F7FFFFF)
_NEVER = tl.constexpr(0x7FFFFFFF)
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_logits(x_ptr, start, num, BLOCK: tl.constexpr):
    at = start + tl.arange(0, BLOCK)
    return tl.load(x_ptr + at, mask=at < num, other=float("-inf"))


@triton.jit
def key_of(x, peak):
    # Floats that are not negative order as their bits do. A logit of -inf has a key above every finite one.
    return (peak - x).to(tl.int32, bitcast=True)


@triton.jit
def weight_of(key, rate):
    return tl.exp2(-key.to(tl.float32, bitcast=True) * rate)


@triton.jit
def measure(x_ptr, num, peak, rate, last, BLOCK: tl.constexpr):
    """How many of `num` logits have keys up to `last`, and the sum of their weights 2^((x - peak) rate)."""
    counts = tl.zeros((BLOCK,), tl.int32)
    masses = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, num, BLOCK):
        x = load_logits(x_ptr, start, num, BLOCK)
        within = key_of(x, peak) <= last
        counts += within.to(tl.int32)
        masses += tl.where(within, tl.exp2((x - peak) * rate), 0.0)
    return tl.sum(counts, axis=0), tl.sum(masses, axis=0)


@triton.jit
def threshold(x_ptr, num, peak, rate, highest, needed_count, needed_mass, BLOCK: tl.constexpr):
    """The least key up to which logits are `needed_count` or weigh `needed_mass`; `highest` if none below it is enough."""
    low = highest * 0
    high = highest
    while low < high:
        middle = low + (high - low) // 2
        count, mass = measure(x_ptr, num, peak, rate, middle, BLOCK)
        enough = (count >= needed_count) | (mass >= needed_mass)
        high = tl.where(enough, middle, high)
        # Exactly so many logits up to here: nothing between would change which they are.
        low = tl.where(enough, tl.where(count == needed_count, middle, low), middle + 1)
    return high


@triton.jit
def compact(x_ptr, num, peak, last, values_ptr, ids_ptr, CAPACITY: tl.constexpr, BLOCK: tl.constexpr):
    """Logits with keys up to `last`, and their ids, in order of ids; returns how many there are, stored or not."""
    written = num * 0
    for start in range(0, num, BLOCK):
        x = load_logits(x_ptr, start, num, BLOCK)
        within = (key_of(x, peak) <= last).to(tl.int32)
        to = written + tl.cumsum(within, axis=0) - 1
        stored = (within == 1) & (to < CAPACITY)
        tl.store(values_ptr + to, x, mask=stored)
        tl.store(ids_ptr + to, start + tl.arange(0, BLOCK), mask=stored)
        written += tl.sum(within, axis=0)
    return written


@triton.jit
def log2_exponential(words):
    """log2 of an exponential variate for each uint32; minus this is a Gumbel variate in base 2."""
    v = tl.minimum((words.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994)
    # The winner's variate is small: there -ln(1 - v) by its series keeps the digits that 1 - v would lose.
    series = v * (1.0 + v * (0.5 + v * (0.3333333333333333 + v * 0.25)))
    return tl.log2(tl.where(v < 0.03125, series, -tl.log(1.0 - v)))


@triton.jit
def draw(x_ptr, ids_ptr, num, peak, rate, last, quota, seed, position, BLOCK: tl.constexpr):
    """The id with the largest Gumbel-perturbed logit, of those with keys below `last` and the first `quota` of those at it."""
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    chosen = tl.zeros((BLOCK,), tl.int32)
    ties = num * 0
    for start in range(0, num, BLOCK):
        x = load_logits(x_ptr, start, num, BLOCK)
        at = start + tl.arange(0, BLOCK)
        # Word i % 4 of the counter (i / 4, position, 0, 0) is the noise of token i, whatever else is in the batch.
        if ids_ptr is None:
            ids = at
            quads = (start // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
            zero = quads * 0
            a, b, c, d = tl.philox(seed, quads, zero + position.to(tl.uint32), zero, zero)
            words = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (BLOCK,))
        else:
            ids = tl.load(ids_ptr + at, mask=at < num, other=0)
            quads = (ids // 4).to(tl.uint32)
            zero = quads * 0
            a, b, c, d = tl.philox(seed, quads, zero + position.to(tl.uint32), zero, zero)
            place = ids % 4
            words = tl.where(place < 2, tl.where(place == 0, a, b), tl.where(place == 2, c, d))
        key = key_of(x, peak)
        kept = key <= last
        if quota < num:
            tied = (key == last).to(tl.int32)
            kept = kept & ((tied == 0) | (ties + tl.cumsum(tied, axis=0) <= quota))
            ties += tl.sum(tied, axis=0)
        score = tl.where(kept, (x - peak) * rate - log2_exponential(words), float("-inf"))
        chosen = tl.where(score > best, ids, chosen)
        best = tl.maximum(best, score)
    return tl.min(tl.where(best == tl.max(best, axis=0), chosen, _NEVER), axis=0)


@triton.jit
def truncate(
    x_ptr, values_ptr, ids_ptr, num, maxima, peak, rate, top_k, top_p, min_p, CAPACITY: tl.constexpr, BLOCK: tl.constexpr
):
    """last, quota: tokens with keys below `last` may be drawn, and the first `quota` of those at it.

    The third is how many logits, all of those among them, now lie in the workspace; 0 if it is the row that must be read.
    """
    # 2^-(distance rate) >= min_p, as a bound on the distance.
    farthest = tl.where(min_p > 0.0, tl.abs(tl.log2(tl.maximum(min_p, 1e-37))) / rate, 3.0e38)
    last = tl.minimum(farthest.to(tl.int32, bitcast=True), _LAST_FINITE_KEY)
    quota = num
    num_compacted = num * 0
    has_top_k = (top_k > 0) & (top_k < num)
    if has_top_k | (top_p < 1.0):
        needed_count = tl.where(has_top_k, top_k, _NEVER)
        needed_mass = float("inf")
        mass = 0.0
        if not has_top_k:
            _, mass = measure(x_ptr, num, peak, rate, last, BLOCK)
            needed_mass = top_p * mass
        tl.store(values_ptr + tl.arange(0, BLOCK), maxima)
        tl.debug_barrier()
        last = threshold(values_ptr, BLOCK, peak, rate, last, needed_count, needed_mass, BLOCK)
        tl.debug_barrier()
        num_candidates = compact(x_ptr, num, peak, last, values_ptr, ids_ptr, CAPACITY, BLOCK)
        tl.debug_barrier()
        if num_candidates <= CAPACITY:
            num_compacted = num_candidates
            search_ptr = values_ptr
            num_searched = num_candidates
        else:
            search_ptr = x_ptr
            num_searched = num
        if has_top_k:
            last = threshold(search_ptr, num_searched, peak, rate, last, top_k, float("inf"), BLOCK)
            count, mass = measure(search_ptr, num_searched, peak, rate, last - 1, BLOCK)
            reached, _ = measure(search_ptr, num_searched, peak, rate, last, BLOCK)
            quota = top_k - count
            mass += tl.minimum(quota, reached - count).to(tl.float32) * weight_of(last, rate)
        if top_p < 1.0:
            needed = top_p * mass
            nucleus = threshold(search_ptr, num_searched, peak, rate, last, _NEVER, needed, BLOCK)
            _, below = measure(search_ptr, num_searched, peak, rate, nucleus - 1, BLOCK)
            tied = tl.ceil((needed - below) / tl.maximum(weight_of(nucleus, rate), 1e-37))
            tied = tl.clamp(tied, 1.0, num.to(tl.float32)).to(tl.int32)
            quota = tl.where(nucleus == last, tl.minimum(quota, tied), tied)
            last = nucleus
    return last, quota, num_compacted


@triton.jit
def sample_kernel(
    logits_ptr,
    temperatures_ptr,
    top_ks_ptr,
    top_ps_ptr,
    min_ps_ptr,
    seeds_ptr,
    positions_ptr,
    token_ids_ptr,
    values_ptr,
    ids_ptr,
    V: tl.constexpr,
    LOGITS_STRIDE: tl.constexpr,
    CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    x_ptr = logits_ptr + row * LOGITS_STRIDE
    num = tl.full((), V, tl.int32)
    maxima = tl.full((BLOCK,), float("-inf"), tl.float32)
    first = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, num, BLOCK):
        x = load_logits(x_ptr, start, num, BLOCK)
        first = tl.where(x > maxima, start + tl.arange(0, BLOCK), first)
        maxima = tl.maximum(maxima, x)
    peak = tl.max(maxima, axis=0)
    token = tl.min(tl.where(maxima == peak, first, _NEVER), axis=0)

    temperature = tl.load(temperatures_ptr + row)
    if temperature >= 1e-6:
        rate = _LOG2_E / temperature
        top_k = tl.load(top_ks_ptr + row)
        top_p = tl.load(top_ps_ptr + row)
        min_p = tl.load(min_ps_ptr + row)
        values_ptr += row * CAPACITY
        ids_ptr += row * CAPACITY
        last, quota, num_compacted = truncate(
            x_ptr, values_ptr, ids_ptr, num, maxima, peak, rate, top_k, top_p, min_p, CAPACITY, BLOCK
        )
        seed = tl.load(seeds_ptr + row)
        position = tl.load(positions_ptr + row)
        if num_compacted > 0:
            token = draw(values_ptr, ids_ptr, num_compacted, peak, rate, last, quota, seed, position, BLOCK)
        else:
            token = draw(x_ptr, None, num, peak, rate, last, quota, seed, position, BLOCK)
    tl.store(token_ids_ptr + row, token)
