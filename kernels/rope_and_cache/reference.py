"""Rotary embedding and the KV cache write."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.quantize_activations.reference import SMALLEST


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """x [T, H, D] in place, cos and sin [T, 1, D/2]."""
    a, b = x.chunk(2, dim=2)
    x.copy_(torch.cat([a * cos - b * sin, b * cos + a * sin], dim=2))


def rope(q: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> None:
    _rotate(q, cos[positions, None], sin[positions, None])


def _rope_and_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    k_centre: Tensor | None = None,
) -> None:
    for x in (q, k):
        _rotate(x, cos[positions, None], sin[positions, None])
    written = slot_mapping >= 0
    slots, block_size = slot_mapping[written], k_cache.shape[3]
    blocks, offsets = slots // block_size, slots % block_size
    k, v = k[written], v[written]
    if k_scales is not None and v_scales is not None:
        k, k_scales[blocks, :, offsets] = _quantized(k if k_centre is None else k - k_centre)
        v, v_scales[blocks, :, offsets] = _quantized(v)
    elif k_cache.dtype == torch.float16:
        most = torch.finfo(torch.float16).max
        k, v = (x.clamp(-most, most) for x in (k, v))
    k, v = k.to(k_cache.dtype), v.to(v_cache.dtype)
    if k_cache.dim() == 5:  # in pairs
        k_cache[blocks, :, :, offsets] = k.reshape(*k.shape[:2], k.shape[2] // 2, 2)
        v_cache[blocks, :, offsets // 2, :, offsets % 2] = v
    else:
        k_cache[blocks, :, :, offsets] = k
        v_cache[blocks, :, offsets] = v


def _quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [T, H, D] as codes in its dtype, and scales [T, H]."""
    largest = x.abs().amax(dim=2)
    largest = torch.where(largest >= SMALLEST, largest, 0.0)
    inverse = torch.where(largest > 0, 127 / largest, 0.0)
    return (x * inverse[..., None]).round(), largest / 127


def _rope_and_cache_latent(
    q: Tensor,
    kv: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
    q_latent: Tensor,
    cache: Tensor,
    block_size: int = 0,
) -> None:
    block_size = block_size or cache.shape[1]
    cos, sin = cos[positions, None], sin[positions, None]
    rotary = 2 * cos.shape[2]
    rank = kv.shape[1] - rotary
    q_latent[:, :, rank:] = rotated_pairs(q[:, :, -rotary:], cos, sin)
    rows = torch.cat([kv[:, :rank], rotated_pairs(kv[:, None, rank:], cos, sin)[:, 0]], dim=1)
    written = slot_mapping >= 0
    slots = slot_mapping[written]
    blocks, offsets = slots // block_size, slots % block_size
    if cache.dim() == 4:  # in pairs
        cache[blocks, offsets // 2, :, offsets % 2] = rows[written].to(cache.dtype)
    else:
        cache[blocks, offsets] = rows[written]


def rotated_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (2i, 2i + 1) of x [T, H, 2 pairs] turned, cos and sin [T, 1, pairs]: the first of all pairs, then the second."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=2)


rope_and_cache_latent_fp32 = rope_and_cache_latent_bf16 = _rope_and_cache_latent
rope_and_cache_fp32 = rope_and_cache_bf16 = rope_and_cache_fp16 = rope_and_cache_int8 = _rope_and_cache
