"""The grouped matmul expert by expert: products and sums in fp32, fp64 where activations are; integer dot products exact."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kernels.quant_matmul.gpu_reference import int4_values
from kernels.scaled_matmul.gpu_reference import unpacked_nvfp4, widened_mxfp4
from kernels.scaled_matmul.packing import SHRINK


def _experts(sorted_ids: Tensor, expert_ids: Tensor, num_padded: Tensor, num_pairs: int) -> Iterator[tuple[int, Tensor]]:
    """Every expert that has pairs, with their numbers."""
    used = int(num_padded.item()) // sorted_ids.shape[1]
    for expert in sorted(set(expert_ids[:used].tolist())):
        ids = sorted_ids[:used][expert_ids[:used] == expert].flatten().long()
        yield expert, ids[ids < num_pairs]


def _rows(x: Tensor, top_k: int) -> Tensor:
    """x [T, 1, ...] or [T, k, ...] as one row per pair."""
    return x.expand(-1, top_k, *x.shape[2:]).flatten(0, 1)


def _of(bias: Tensor | None, expert: int) -> Tensor | None:
    return None if bias is None else bias[expert]


def _store(out: Tensor, ids: Tensor, result: Tensor, bias: Tensor | None, topk_weights: Tensor | None) -> None:
    """`bias` is the expert's."""
    if bias is not None:
        result = result + bias
    if topk_weights is not None:
        result = result * topk_weights.flatten()[ids, None]
    out[ids // out.shape[1], ids % out.shape[1]] = result.to(out.dtype)


def gpu_moe_matmul_w16(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    topk_weights: Tensor | None,
    sorted_ids: Tensor,
    expert_ids: Tensor,
    num_padded: Tensor,
    out: Tensor,
) -> None:
    inner, top_k = torch.promote_types(x.dtype, torch.float32), out.shape[1]
    rows = _rows(x, top_k)
    for expert, ids in _experts(sorted_ids, expert_ids, num_padded, len(rows)):
        _store(out, ids, rows[ids].to(inner) @ weight[expert].to(inner).T, _of(bias, expert), topk_weights)


def gpu_moe_matmul_w8(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    topk_weights: Tensor | None,
    sorted_ids: Tensor,
    expert_ids: Tensor,
    num_padded: Tensor,
    out: Tensor,
) -> None:
    inner, top_k = torch.promote_types(x.dtype, torch.float32), out.shape[1]
    rows = _rows(x, top_k)
    for expert, ids in _experts(sorted_ids, expert_ids, num_padded, len(rows)):
        product = rows[ids].to(inner) @ codes[expert].to(inner).T
        _store(out, ids, product * scales[expert], _of(bias, expert), topk_weights)


def gpu_moe_matmul_int4_asym(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    topk_weights: Tensor | None,
    sorted_ids: Tensor,
    expert_ids: Tensor,
    num_padded: Tensor,
    out: Tensor,
) -> None:
    inner, top_k = torch.promote_types(x.dtype, torch.float32), out.shape[1]
    rows = _rows(x, top_k)
    for expert, ids in _experts(sorted_ids, expert_ids, num_padded, len(rows)):
        own_zeros = None if zeros is None else zeros[expert]
        weight = int4_values(codes[expert], scales[expert], own_zeros, out.shape[2], x.shape[2], inner)
        _store(out, ids, rows[ids].to(inner) @ weight.T, _of(bias, expert), topk_weights)


def gpu_moe_matmul_int4_sym(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    topk_weights: Tensor | None,
    sorted_ids: Tensor,
    expert_ids: Tensor,
    num_padded: Tensor,
    out: Tensor,
) -> None:
    gpu_moe_matmul_int4_asym(x, codes, scales, None, bias, topk_weights, sorted_ids, expert_ids, num_padded, out)


def gpu_moe_matmul_mxfp4(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    topk_weights: Tensor | None,
    sorted_ids: Tensor,
    expert_ids: Tensor,
    num_padded: Tensor,
    out: Tensor,
) -> None:
    inner, top_k = torch.promote_types(x.dtype, torch.float32), out.shape[1]
    rows = _rows(x, top_k)
    for expert, ids in _experts(sorted_ids, expert_ids, num_padded, len(rows)):
        weight = widened_mxfp4(codes[expert], scales[expert], x.dtype)[: out.shape[2], : x.shape[2]]
        product = rows[ids].to(inner) @ weight.to(inner).T
        _store(out, ids, product * SHRINK, _of(bias, expert), topk_weights)


def gpu_moe_matmul_nvfp4(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    row_scales: Tensor,
    bias: Tensor | None,
    topk_weights: Tensor | None,
    sorted_ids: Tensor,
    expert_ids: Tensor,
    num_padded: Tensor,
    out: Tensor,
) -> None:
    inner, top_k = torch.promote_types(x.dtype, torch.float32), out.shape[1]
    rows = _rows(x, top_k)
    for expert, ids in _experts(sorted_ids, expert_ids, num_padded, len(rows)):
        weight = unpacked_nvfp4(codes[expert], scales[expert])[: out.shape[2], : x.shape[2]]
        product = rows[ids].to(inner) @ weight.to(inner).T
        _store(out, ids, product * row_scales[expert], _of(bias, expert), topk_weights)


def _per_channel(
    x_codes: Tensor,
    x_scales: Tensor,
    codes: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    topk_weights: Tensor | None,
    sorted_ids: Tensor,
    expert_ids: Tensor,
    num_padded: Tensor,
    out: Tensor,
) -> None:
    inner, top_k = x_scales.dtype, out.shape[1]
    # Sums of integer products may pass 2^24.
    products = torch.float64 if x_codes.dtype == torch.int8 else inner
    rows, row_scales = _rows(x_codes, top_k), _rows(x_scales, top_k)
    for expert, ids in _experts(sorted_ids, expert_ids, num_padded, len(rows)):
        dot = (rows[ids].to(products) @ codes[expert].to(products).T).to(inner)
        _store(out, ids, dot * scales[expert] * row_scales[ids, None], _of(bias, expert), topk_weights)


gpu_moe_matmul_int8 = gpu_moe_matmul_e4m3 = _per_channel


def gpu_moe_matmul_e4m3_block(
    x_codes: Tensor,
    x_scales: Tensor,
    codes: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    topk_weights: Tensor | None,
    sorted_ids: Tensor,
    expert_ids: Tensor,
    num_padded: Tensor,
    out: Tensor,
) -> None:
    inner, top_k, k = x_scales.dtype, out.shape[1], codes.shape[2]
    rows, row_scales = _rows(x_codes, top_k), _rows(x_scales, top_k)
    for expert, ids in _experts(sorted_ids, expert_ids, num_padded, len(rows)):
        x = rows[ids].to(inner) * row_scales[ids].repeat_interleave(128, dim=1)[:, :k]
        expanded = scales[expert].repeat_interleave(128, dim=0)[: codes.shape[1]].repeat_interleave(128, dim=1)[:, :k]
        _store(out, ids, x @ (codes[expert].to(inner) * expanded).T, _of(bias, expert), topk_weights)


def gpu_moe_sum(x: Tensor, shared: Tensor | None, out: Tensor) -> None:
    total = x.sum(dim=1, dtype=torch.promote_types(x.dtype, torch.float32))
    out.copy_(total if shared is None else total + shared)
