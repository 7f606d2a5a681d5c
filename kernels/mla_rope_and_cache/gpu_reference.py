"""MLA's rotary embedding and cache write; fp32 inside, or fp64 where q is."""

from __future__ import annotations

import torch
from torch import Tensor


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (2i, 2i + 1) of x [..., P] rotated; the first of all pairs, then the second."""
    a, b = x[..., 0::2].to(cos.dtype), x[..., 1::2].to(cos.dtype)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def gpu_mla_rope_and_cache(
    q: Tensor,
    kv: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
    q_latent: Tensor,
    cache: Tensor,
) -> None:
    rotary = 2 * cos.shape[1]
    rank = cache.shape[2] - rotary
    angles = cos[positions.long()], sin[positions.long()]
    q_latent[:, :, rank:] = _rotate(q[:, :, -rotary:], angles[0][:, None], angles[1][:, None]).to(q_latent.dtype)
    latents = torch.cat([kv[:, :rank], _rotate(kv[:, rank:], *angles).to(kv.dtype)], dim=1)
    written, block_size = slot_mapping >= 0, cache.shape[1]
    slots = slot_mapping[written]
    cache[slots // block_size, slots % block_size] = latents[written].to(cache.dtype)
