"""Matrix products over packed weights, in the dtype of x (or of x_scales), fp32 or fp64."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.packing import TWO_LEVEL_GROUP


def _rows(tiles: Tensor, num_rows: int) -> Tensor:
    """[N/16, K, 16] -> [N, K]."""
    return tiles.transpose(1, 2).flatten(0, 1)[:num_rows]


def _int4_codes(codes: Tensor) -> Tensor:
    """u32 [N/16, K/8, 16] -> [N/16, K, 16] in 0..15: low nibbles of the four bytes, then high ones."""
    shifts = torch.tensor([0, 8, 16, 24, 4, 12, 20, 28])
    words = codes.view(torch.int32).unsqueeze(2)
    return ((words >> shifts[:, None]) & 15).flatten(1, 2)


def _int4(codes: Tensor, scales: Tensor, zeros: Tensor | None, num_rows: int, dtype: torch.dtype) -> Tensor:
    quantized = _int4_codes(codes)
    group_size = quantized.shape[1] // scales.shape[1]
    zero = 8 if zeros is None else zeros.to(torch.int32).repeat_interleave(group_size, dim=1)
    return _rows((quantized - zero).to(dtype) * scales.to(dtype).repeat_interleave(group_size, dim=1), num_rows)


def _two_level(codes: Tensor, steps: Tensor, num_rows: int) -> Tensor:
    """step (code - 8), i32 [N, K]."""
    pairs = steps.to(torch.int32)
    of_group = torch.stack([pairs & 15, pairs >> 4], dim=2).flatten(1, 2)
    return _rows((_int4_codes(codes) - 8) * of_group.repeat_interleave(TWO_LEVEL_GROUP, dim=1), num_rows)


def _write(out: Tensor, product: Tensor, bias: Tensor | None) -> None:
    out.copy_(product if bias is None else product + bias)


def quant_matmul_fp32(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    _write(out, x @ _rows(weight, out.shape[1]).to(x.dtype).T, bias)


def quant_matmul_bf16(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    _write(out, x @ _rows(weight, out.shape[1]).to(x.dtype).T, bias)


def quant_matmul_int8(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor) -> None:
    n = out.shape[1]
    _write(out, (x @ _rows(codes, n).to(x.dtype).T) * scales.flatten()[:n], bias)


def quant_matmul_int4_sym(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor) -> None:
    _write(out, x @ _int4(codes, scales, None, out.shape[1], x.dtype).T, bias)


def quant_matmul_int4_asym(x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor | None, out: Tensor) -> None:
    _write(out, x @ _int4(codes, scales, zeros, out.shape[1], x.dtype).T, bias)


def quant_matmul_int8_a8(
    x_codes: Tensor, x_scales: Tensor, x_sums: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    n = out.shape[1]
    signed = codes.to(torch.int32) - 128
    weight = signed.permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1)[:n]
    dot = x_codes.double() @ weight.double().T  # exact: integers far below 2^53
    _write(out, dot.to(out.dtype) * scales.flatten()[:n] * x_scales[:, None], bias)


def quant_matmul_int8_a16(
    x_codes: Tensor, x_scales: Tensor, x_sums: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    pairs = x_codes.to(torch.int32).reshape(-1, 2, x_codes.shape[1])
    quant_matmul_int8_a8(256 * pairs[:, 0] + pairs[:, 1], x_scales, x_sums, codes, scales, bias, out)


def _int4_a8(
    x_codes: Tensor,
    x_scales: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
) -> None:
    n, groups, group_size = out.shape[1], scales.shape[1], codes.shape[1] * 8 // scales.shape[1]
    quantized = _rows(_int4_codes(codes), n).double().reshape(n, groups, group_size)
    zero = torch.tensor(8.0) if zeros is None else _rows(zeros, n).double()[:, :, None]
    dots = torch.einsum("tgk,ngk->tng", x_codes.double().reshape(-1, groups, group_size), quantized - zero)  # exact
    _write(out, (dots.to(out.dtype) * _rows(scales, n).to(out.dtype)).sum(dim=2) * x_scales[:, None], bias)


def quant_matmul_int4_sym_a8(
    x_codes: Tensor, x_scales: Tensor, x_sums: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    _int4_a8(x_codes, x_scales, codes, scales, None, bias, out)


def quant_matmul_int4_asym_a8(
    x_codes: Tensor,
    x_scales: Tensor,
    x_sums: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor | None,
    out: Tensor,
) -> None:
    _int4_a8(x_codes, x_scales, codes, scales, zeros, bias, out)


def quant_matmul_int4_twolevel(
    x: Tensor, codes: Tensor, steps: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    n = out.shape[1]
    _write(out, (x @ _two_level(codes, steps, n).to(x.dtype).T) * scales.flatten()[:n], bias)


def quant_matmul_int4_twolevel_a8(
    x_codes: Tensor,
    x_scales: Tensor,
    x_sums: Tensor,
    codes: Tensor,
    steps: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    out: Tensor,
) -> None:
    n = out.shape[1]
    dot = x_codes.double() @ _two_level(codes, steps, n).double().T  # exact
    _write(out, dot.to(out.dtype) * scales.flatten()[:n] * x_scales[:, None], bias)
