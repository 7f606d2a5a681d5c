"""Rotary embedding and the KV cache write."""

from __future__ import annotations

import torch
from torch import Tensor


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """x [T, H, D] in place, cos and sin [T, 1, D/2]."""
    a, b = x.chunk(2, dim=2)
    x.copy_(torch.cat([a * cos - b * sin, b * cos + a * sin], dim=2))


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
) -> None:
    for x in (q, k):
        _rotate(x, cos[positions, None], sin[positions, None])
    written = slot_mapping >= 0
    slots, block_size = slot_mapping[written], k_cache.shape[3]
    blocks, offsets = slots // block_size, slots % block_size
    k_cache[blocks, :, :, offsets] = k[written].to(k_cache.dtype)
    v_cache[blocks, :, offsets] = v[written].to(v_cache.dtype)


rope_and_cache_fp32 = rope_and_cache_bf16 = _rope_and_cache
