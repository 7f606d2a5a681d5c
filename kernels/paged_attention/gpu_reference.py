"""Causal attention over a paged cache, one sequence at a time: in fp32, or fp64 where q is; rounded where the kernel rounds."""

from __future__ import annotations

import torch
from torch import Tensor


def _attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    cu_seqlens_q: Tensor,
    out: Tensor,
    scale: float,
    window: int,
    softcap: float,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    sinks: Tensor | None = None,
) -> None:
    inner = torch.promote_types(q.dtype, torch.float32)
    # Of a cache that is not of activations the matrix products are in f16; an oracle in a wider dtype rounds nothing.
    in_f16 = k_scales is not None or k_cache.dtype == torch.float16
    operand = torch.float16 if in_f16 and q.dtype == torch.bfloat16 else q.dtype
    num_kv_heads = k_cache.shape[2]
    starts = cu_seqlens_q.tolist()
    for s, length in enumerate(seq_lens.tolist()):
        tokens = slice(starts[s], starts[s + 1])
        count = tokens.stop - tokens.start
        if not count or not length:
            continue
        low = max(0, length - count + 1 - window) if window else 0
        slots = _slots(block_tables[s], low, length, k_cache.shape[1])
        # [Hkv, count * group, D]: the queries that share keys are rows of one product.
        grouped = q[tokens].reshape(count, num_kv_heads, -1, q.shape[2]).permute(1, 0, 2, 3)
        rows = grouped.flatten(1, 2)
        if in_f16:
            rows = rows.clamp(-65504, 65504).to(operand)
        scores = (rows.to(inner) * scale) @ k_cache.flatten(0, 1)[slots].to(inner).permute(1, 2, 0)
        if k_scales is not None:
            scores *= k_scales.flatten(0, 1)[slots].to(inner).T[:, None]
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        position = torch.arange(length - count, length)[:, None]
        key = torch.arange(low, length)[None, :]
        hidden = (key > position) | ((key <= position - window) if window else (key < 0))
        scores.view(num_kv_heads, count, -1, length - low).masked_fill_(hidden[:, None], float("-inf"))
        most, of_sink = scores.amax(dim=2, keepdim=True), torch.zeros((), dtype=inner)
        if sinks is not None:
            of_rows = sinks.to(inner).view(num_kv_heads, 1, -1).expand(-1, count, -1).reshape(num_kv_heads, -1, 1)
            most = torch.maximum(most, of_rows)
            of_sink = (of_rows - most).exp()
        p = scores.sub_(most).exp_()
        total = p.sum(dim=2, keepdim=True) + of_sink
        if v_scales is not None:
            # 2^8 keeps the product normal in f16, as in the kernel.
            p *= (256 * v_scales.flatten(0, 1)[slots].to(inner)).T[:, None]
            total *= 256
        summed = (p.to(operand).to(inner) @ v_cache.flatten(0, 1)[slots].to(inner).transpose(0, 1)) / total
        out[tokens] = summed.view(*grouped.shape).permute(1, 0, 2, 3).flatten(1, 2).to(out.dtype)


def _slots(table: Tensor, low: int, high: int, block_size: int) -> Tensor:
    """Slots of positions low .. high of the sequence with this block table."""
    positions = torch.arange(low, high)
    return table[positions // block_size].long() * block_size + positions % block_size


def gpu_paged_attention_act(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    cu_seqlens_q: Tensor,
    sinks: Tensor | None,
    out: Tensor,
    scale: float,
    window: int,
    softcap: float,
    max_query_len: int,
) -> None:
    tables = block_tables, seq_lens, cu_seqlens_q
    _attention(q, k_cache, v_cache, *tables, out, scale, window, softcap, sinks=sinks)


gpu_paged_attention_fp16 = gpu_paged_attention_act


def _quantized(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k_scales: Tensor,
    v_scales: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    cu_seqlens_q: Tensor,
    sinks: Tensor | None,
    out: Tensor,
    scale: float,
    window: int,
    softcap: float,
    max_query_len: int,
) -> None:
    tables, scales = (block_tables, seq_lens, cu_seqlens_q), (k_scales, v_scales)
    _attention(q, k_cache, v_cache, *tables, out, scale, window, softcap, *scales, sinks)


gpu_paged_attention_int8 = gpu_paged_attention_e4m3 = _quantized
