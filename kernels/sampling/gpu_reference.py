"""Sampling by sorting: the same tokens as the kernel, which does not sort."""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF


def philox(seeds: Tensor, positions: Tensor, num: int) -> Tensor:
    """Philox4x32-10: seeds i64 [R], positions i32 [R] -> words as i64 [R, num]; word i is word i % 4 of counter i / 4."""
    quads = torch.arange(-(-num // 4), device=seeds.device)[None]
    c0, c1 = quads.expand(len(seeds), -1), (positions.long() & _WORD)[:, None].expand(-1, quads.shape[1])
    c2, c3 = torch.zeros_like(c0), torch.zeros_like(c0)
    k0, k1 = (seeds & _WORD)[:, None], (seeds >> 32 & _WORD)[:, None]
    for _ in range(10):
        # A product may wrap past 2^63; the bits are right all the same.
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (second >> 32 & _WORD) ^ c1 ^ k0, second & _WORD, (first >> 32 & _WORD) ^ c3 ^ k1, first & _WORD
        k0, k1 = k0 + 0x9E3779B9 & _WORD, k1 + 0xBB67AE85 & _WORD
    return torch.stack((c0, c1, c2, c3), dim=2).flatten(1)[:, :num]


def support(logits: Tensor, temperatures: Tensor, top_ks: Tensor, top_ps: Tensor, min_ps: Tensor) -> Tensor:
    """Which tokens may be drawn, bool [R, V], where the temperature is not 0."""
    distances = logits.amax(dim=1, keepdim=True) - logits
    weights = torch.exp(-distances / temperatures[:, None])
    # A stable sort: equally likely tokens come in order of their ids.
    distances, order = distances.sort(dim=1, stable=True)
    weights = weights.gather(1, order)
    ranks = torch.arange(logits.shape[1], device=logits.device)
    kept = (weights >= min_ps[:, None]) & distances.isfinite()
    kept &= (ranks < top_ks[:, None]) | (top_ks <= 0)[:, None]
    cumulative = torch.where(kept, weights, 0).cumsum(dim=1)
    before = torch.cat((torch.zeros_like(cumulative[:, :1]), cumulative[:, :-1]), dim=1)
    kept &= (before < top_ps[:, None] * cumulative[:, -1:]) | (top_ps >= 1)[:, None]
    return torch.zeros_like(kept).scatter(1, order, kept)


def gpu_sample(
    logits: Tensor,
    temperatures: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    min_ps: Tensor,
    seeds: Tensor,
    positions: Tensor,
    token_ids: Tensor,
) -> None:
    greedy = temperatures < 1e-6
    temperatures = torch.where(greedy, 1, temperatures)
    v = ((philox(seeds, positions, logits.shape[1]).to(torch.float64) + 0.5) / 2**32).to(logits.dtype)
    noise = -torch.log(-torch.log1p(-v.clamp_max(1 - 2**-24)))
    kept = support(logits, temperatures, top_ks, top_ps, min_ps)
    scores = torch.where(kept, logits / temperatures[:, None] + noise, -torch.inf)
    # argmax of equal numbers may be any of them; the first is wanted.
    scores = torch.where(greedy[:, None], logits, scores)
    first = (scores == scores.amax(dim=1, keepdim=True)).int().cumsum(dim=1).eq(0).sum(dim=1)
    token_ids.copy_(first)
