"""Rotary embedding and the KV cache write: fp32 inside, or fp64 where q is; rounded where the kernel rounds."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.quantize_activations.gpu_reference import quantize_rows


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [T, H, D], cos and sin [T, 1, D/2]; in fp32 or fp64."""
    a, b = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=2)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=2)


def _rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """Rotates q and k in place; returns k as it was before it was rounded."""
    angles = cos[positions, None], sin[positions, None]
    rotated = _rotated(k, *angles)
    q.copy_(_rotated(q, *angles))
    k.copy_(rotated)
    return rotated


def gpu_rope(q: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> None:
    q.copy_(_rotated(q, cos[positions, None], sin[positions, None]))


def gpu_rope_and_cache_act(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
) -> None:
    rotated = _rotate(q, k, cos, sin, positions)
    written = slot_mapping >= 0
    for x, cache in ((rotated, k_cache), (v, v_cache)):
        most = torch.finfo(cache.dtype).max
        rounded = x[written].clamp(-most, most) if cache.dtype == torch.float16 else x[written]
        cache[_place(slot_mapping[written], cache)] = rounded.to(cache.dtype)


gpu_rope_and_cache_fp16 = gpu_rope_and_cache_act


def _place(slots: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
    return slots // cache.shape[1], slots % cache.shape[1]


def _quantized(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k_scales: Tensor,
    v_scales: Tensor,
) -> None:
    rotated = _rotate(q, k, cos, sin, positions)
    written = slot_mapping >= 0
    place = _place(slot_mapping[written], k_cache)
    for x, cache, cache_scales in ((rotated, k_cache, k_scales), (v, v_cache, v_scales)):
        rows = x[written].to(rotated.dtype)
        codes, scales = torch.empty(rows.shape, dtype=cache.dtype), torch.empty(rows.shape[:2], dtype=cache_scales.dtype)
        quantize_rows(rows, codes, scales)
        cache.view(torch.uint8)[place] = codes.view(torch.uint8)
        cache_scales[place] = scales


gpu_rope_and_cache_int8 = gpu_rope_and_cache_e4m3 = _quantized
