"""One program per token and group of heads rotates queries; the last of a token's programs writes its latent."""

import triton
import triton.language as tl


@triton.jit
def _rotate(x, cos, sin):
    """Rows of pairs (2i, 2i + 1), and the angles of the pairs -> the first and the second of every rotated pair, in fp32."""
    first, second = tl.split(tl.reshape(x.to(tl.float32), (x.shape[0], x.shape[1] // 2, 2)))
    return first * cos - second * sin, second * cos + first * sin


@triton.jit
def mla_rope_and_cache_kernel(
    q_ptr,
    kv_ptr,
    cos_ptr,
    sin_ptr,
    positions_ptr,
    slot_mapping_ptr,
    q_latent_ptr,
    cache_ptr,
    H: tl.constexpr,
    R: tl.constexpr,
    P: tl.constexpr,
    Q_WIDTH: tl.constexpr,
    Q_STRIDE: tl.constexpr,
    KV_STRIDE: tl.constexpr,
    Q_LATENT_STRIDE: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    HALF: tl.constexpr = P // 2
    NUM_GROUPS: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    position = tl.load(positions_ptr + token)
    pairs = tl.arange(0, HALF)
    columns = tl.arange(0, P)
    cos = tl.load(cos_ptr + position * HALF + pairs)[None, :]
    sin = tl.load(sin_ptr + position * HALF + pairs)[None, :]
    if group < NUM_GROUPS:
        heads = group * BLOCK_H + tl.arange(0, BLOCK_H)
        inside = (heads < H)[:, None]
        q_pe = q_ptr + token * Q_STRIDE + (heads * Q_WIDTH + Q_WIDTH - P)[:, None] + columns[None, :]
        first, second = _rotate(tl.load(q_pe, mask=inside, other=0.0), cos, sin)
        rotated = q_latent_ptr + token * Q_LATENT_STRIDE + (heads * (R + P) + R)[:, None] + pairs[None, :]
        tl.store(rotated, first.to(q_latent_ptr.dtype.element_ty), mask=inside)
        tl.store(rotated + HALF, second.to(q_latent_ptr.dtype.element_ty), mask=inside)
    else:
        slot = tl.load(slot_mapping_ptr + token)
        if slot >= 0:
            kv = kv_ptr + token * KV_STRIDE
            row = cache_ptr + slot * (R + P)
            latent = tl.arange(0, BLOCK_R)
            tl.store(row + latent, tl.load(kv + latent, mask=latent < R, other=0.0), mask=latent < R)
            first, second = _rotate(tl.load(kv + R + columns)[None, :], cos, sin)
            tl.store(row + R + pairs[None, :], first.to(cache_ptr.dtype.element_ty))
            tl.store(row + R + HALF + pairs[None, :], second.to(cache_ptr.dtype.element_ty))
