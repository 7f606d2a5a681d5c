"""Causal attention over a paged cache, one sequence at a time, in the dtype of q.

Over a bf16 cache, q and the weights of positions are rounded to bf16 as kernels round them, if q is fp32: in fp64 the result is
the truth, which kernel and rounding reference are both off by their roundings.
"""

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
    softcap: float = 0.0,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    sinks: Tensor | None = None,
) -> None:
    group = q.shape[1] // k_cache.shape[1]
    in_pairs = k_cache.dim() == 5
    block_size = k_cache.shape[3]
    rounded = _to_bf16_and_back if in_pairs and q.dtype == torch.float32 else _unchanged
    for s, length in enumerate(seq_lens.tolist()):
        start, end = cu_seqlens_q[s : s + 2].tolist()
        if start == end:
            continue
        blocks = block_tables[s, : -(-length // block_size)]
        k, v = k_cache[blocks], v_cache[blocks]
        if in_pairs:
            k, v = k.transpose(3, 4).flatten(2, 3), v.transpose(3, 4).flatten(2, 3)
        k = k.permute(1, 0, 3, 2).flatten(1, 2)[:, :length].to(q.dtype)  # [Hkv, length, D]
        v = v.transpose(0, 1).flatten(1, 2)[:, :length].to(q.dtype)
        if k_scales is not None and v_scales is not None:
            k, v = (
                x * scales[blocks].transpose(0, 1).flatten(1, 2)[:, :length, None].to(q.dtype)
                for x, scales in ((k, k_scales), (v, v_scales))
            )
        k, v = (x.repeat_interleave(group, dim=0) for x in (k, v))
        scores = scale * torch.einsum("thd,hld->htl", rounded(q[start:end]), k)
        if softcap:
            scores = softcap * (scores / softcap).tanh()
        position = torch.arange(length - (end - start), length)[:, None]
        key = torch.arange(length)[None, :]
        hidden = (key > position) | ((key <= position - window) if window else torch.zeros(1, dtype=torch.bool))
        scores = scores.masked_fill(hidden, float("-inf"))
        most, of_sink = scores.amax(dim=2), torch.zeros((), dtype=q.dtype)
        if sinks is not None:
            most = torch.maximum(most, sinks[:, None])
            of_sink = (sinks[:, None] - most).exp()
        weights = rounded((scores - most[..., None]).exp())
        out[start:end] = torch.einsum("htl,hld->thd", weights, v) / (weights.sum(dim=2) + of_sink).T[..., None]


def _paged_attention_latent(
    q: Tensor,
    cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    cu_seqlens_q: Tensor,
    partials: Tensor,
    arrived: Tensor,
    out: Tensor,
    scale: float,
    block_size: int = 0,
) -> None:
    if cache.dim() == 4:  # in pairs
        num_blocks, pairs, width, _ = cache.shape
        keys = cache.permute(0, 2, 1, 3).reshape(num_blocks, 1, width // 2, 2, 2 * pairs).transpose(3, 4)
        values = cache[:, None, :, : out.shape[2]]
    else:
        keys, values = cache[:, None].transpose(2, 3), cache[:, None, :, : out.shape[2]]
    rest = block_tables, seq_lens, cu_seqlens_q, partials, arrived, out, scale
    _paged_attention(q, keys, values, *rest, window=0)


def _to_bf16_and_back(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).to(x.dtype)


def _unchanged(x: Tensor) -> Tensor:
    return x


paged_attention_latent_fp32 = paged_attention_latent_bf16 = _paged_attention_latent
paged_attention_fp32 = paged_attention_bf16 = paged_attention_fp16 = paged_attention_int8 = _paged_attention
paged_attention_capped_fp32 = paged_attention_capped_bf16 = _paged_attention
paged_attention_capped_fp16 = paged_attention_capped_int8 = _paged_attention
paged_attention_sinks_fp32 = paged_attention_sinks_bf16 = _paged_attention
paged_attention_sinks_fp16 = paged_attention_sinks_int8 = _paged_attention
