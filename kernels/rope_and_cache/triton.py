"""One program per token and kv head: it rotates the kv head's key and the queries that share it, and caches key and value.
Where there are queries alone, one per token and head."""

import triton
import triton.language as tl

from kernels.gpu.triton import encode, scale_of, within_f16


@triton.jit
def _store_row(low, high, base, scale_ptr, columns, inside, HALF: tl.constexpr):
    """Both halves of a cached vector, f32, as codes with a scale where scale_ptr is given; f16 saturates, a NaN stays one."""
    if scale_ptr is None:
        if base.dtype.element_ty == tl.float16:
            low, high = within_f16(low), within_f16(high)
        low, high = low.to(base.dtype.element_ty), high.to(base.dtype.element_ty)
    else:
        amax = tl.maximum(tl.max(tl.abs(low), axis=0), tl.max(tl.abs(high), axis=0))
        scale, inverse = scale_of(amax, base.dtype.element_ty)
        tl.store(scale_ptr, scale)
        low, high = encode(low * inverse, base.dtype.element_ty), encode(high * inverse, base.dtype.element_ty)
    tl.store(base + columns, low, mask=inside)
    tl.store(base + HALF + columns, high, mask=inside)


@triton.jit
def rope_kernel(
    q_ptr,
    cos_ptr,
    sin_ptr,
    positions_ptr,
    HALF: tl.constexpr,
    Q_STRIDE: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_HALF)
    inside = columns < HALF
    place = tl.load(positions_ptr + row).to(tl.int64) * HALF + columns
    cos = tl.load(cos_ptr + place, mask=inside, other=0.0)
    sin = tl.load(sin_ptr + place, mask=inside, other=0.0)
    head = q_ptr + row * Q_STRIDE + tl.program_id(1) * (2 * HALF) + columns
    first = tl.load(head, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(head + HALF, mask=inside, other=0.0).to(tl.float32)
    tl.store(head, (first * cos - second * sin).to(q_ptr.dtype.element_ty), mask=inside)
    tl.store(head + HALF, (second * cos + first * sin).to(q_ptr.dtype.element_ty), mask=inside)


@triton.jit
def rope_and_cache_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    cos_ptr,
    sin_ptr,
    positions_ptr,
    slots_ptr,
    k_cache_ptr,
    v_cache_ptr,
    k_scales_ptr,
    v_scales_ptr,
    GROUP: tl.constexpr,
    HALF: tl.constexpr,
    Q_STRIDE: tl.constexpr,
    K_STRIDE: tl.constexpr,
    V_STRIDE: tl.constexpr,
    SLOT_STRIDE: tl.constexpr,
    SCALE_STRIDE: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    D: tl.constexpr = 2 * HALF
    columns = tl.arange(0, BLOCK_HALF)
    inside = columns < HALF
    angle = tl.load(positions_ptr + token).to(tl.int64) * HALF + columns
    cos = tl.load(cos_ptr + angle, mask=inside, other=0.0)
    sin = tl.load(sin_ptr + angle, mask=inside, other=0.0)

    group = tl.arange(0, BLOCK_GROUP)
    heads = q_ptr + token * Q_STRIDE + (kv_head * GROUP + group)[:, None] * D + columns[None, :]
    there = (group < GROUP)[:, None] & inside[None, :]
    low = tl.load(heads, mask=there, other=0.0).to(tl.float32)
    high = tl.load(heads + HALF, mask=there, other=0.0).to(tl.float32)
    tl.store(heads, (low * cos[None, :] - high * sin[None, :]).to(q_ptr.dtype.element_ty), mask=there)
    tl.store(heads + HALF, (high * cos[None, :] + low * sin[None, :]).to(q_ptr.dtype.element_ty), mask=there)

    key = k_ptr + token * K_STRIDE + kv_head * D + columns
    low = tl.load(key, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(key + HALF, mask=inside, other=0.0).to(tl.float32)
    key_low, key_high = low * cos - high * sin, high * cos + low * sin
    tl.store(key, key_low.to(k_ptr.dtype.element_ty), mask=inside)
    tl.store(key + HALF, key_high.to(k_ptr.dtype.element_ty), mask=inside)

    slot = tl.load(slots_ptr + token)
    if slot >= 0:
        place = slot * SLOT_STRIDE + kv_head * D
        scale = slot * SCALE_STRIDE + kv_head
        k_scale_ptr = k_scales_ptr + scale if k_scales_ptr is not None else None
        v_scale_ptr = v_scales_ptr + scale if v_scales_ptr is not None else None
        value = v_ptr + token * V_STRIDE + kv_head * D + columns
        value_low = tl.load(value, mask=inside, other=0.0).to(tl.float32)
        value_high = tl.load(value + HALF, mask=inside, other=0.0).to(tl.float32)
        _store_row(key_low, key_high, k_cache_ptr + place, k_scale_ptr, columns, inside, HALF)
        _store_row(value_low, value_high, v_cache_ptr + place, v_scale_ptr, columns, inside, HALF)
