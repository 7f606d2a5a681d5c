"""Attention over latents, sequence by sequence: fp32 inside, or fp64; softmax weights rounded as the kernel rounds them."""

from __future__ import annotations

import torch
from torch import Tensor


def gpu_mla_attention(
    q: Tensor,
    cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    cu_seqlens_q: Tensor,
    out: Tensor,
    scale: float,
    max_query_len: int,
) -> None:
    inner, (_, block_size, width), rank = torch.promote_types(q.dtype, torch.float32), cache.shape, out.shape[2]
    starts = cu_seqlens_q.tolist()
    for sequence, length in enumerate(seq_lens.tolist()):
        first, last = starts[sequence], starts[sequence + 1]
        if first == last or length == 0:
            continue
        blocks = block_tables[sequence, : -(-length // block_size)].long()
        latents = cache[blocks].reshape(-1, width)[:length].to(inner)
        scores = torch.einsum("thl,nl->htn", q[first:last].to(inner), latents) * scale
        positions = torch.arange(length - (last - first), length, device=q.device)
        unseen = torch.arange(length, device=q.device)[None, :] > positions[:, None]
        scores.masked_fill_(unseen, -torch.inf)
        weights = (scores - scores.amax(dim=2, keepdim=True)).exp()
        attended = torch.einsum("htn,nr->thr", weights.to(cache.dtype).to(inner), latents[:, :rank])
        out[first:last] = (attended / weights.sum(dim=2).T[:, :, None]).to(out.dtype)
