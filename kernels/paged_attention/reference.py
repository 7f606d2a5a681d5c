"""Causal attention over a paged cache, one sequence at a time, in the dtype of q."""

from __future__ import annotations

import torch
from torch import Tensor


def _paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    cu_seqlens_q: Tensor,
    partials: Tensor,
    arrived: Tensor,
    out: Tensor,
    scale: float,
    window: int,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
) -> None:
    group = q.shape[1] // k_cache.shape[1]
    for s, length in enumerate(seq_lens.tolist()):
        start, end = cu_seqlens_q[s : s + 2].tolist()
        if start == end:
            continue
        blocks = block_tables[s, : -(-length // k_cache.shape[3])]
        k = k_cache[blocks].permute(1, 0, 3, 2).flatten(1, 2)[:, :length].to(q.dtype)  # [Hkv, length, D]
        v = v_cache[blocks].transpose(0, 1).flatten(1, 2)[:, :length].to(q.dtype)
        if k_scales is not None and v_scales is not None:
            k, v = (
                x * scales[blocks].transpose(0, 1).flatten(1, 2)[:, :length, None].to(q.dtype)
                for x, scales in ((k, k_scales), (v, v_scales))
            )
        k, v = (x.repeat_interleave(group, dim=0) for x in (k, v))
        scores = scale * torch.einsum("thd,hld->htl", q[start:end], k)
        position = torch.arange(length - (end - start), length)[:, None]
        key = torch.arange(length)[None, :]
        hidden = (key > position) | ((key <= position - window) if window else torch.zeros(1, dtype=torch.bool))
        weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=2)
        out[start:end] = torch.einsum("htl,hld->thd", weights, v)


paged_attention_fp32 = paged_attention_bf16 = paged_attention_int8 = _paged_attention
