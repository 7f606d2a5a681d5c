"""Products of unscaled operands in fp32, or fp64 where the floating inputs are; scales and bias after, rounded once."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.scaled_matmul.variants import BLOCK_WIDTH, MX_WIDTH

#: Sums of so many products of int8 codes are exact in fp32: 128 x 128 x 1024 = 2^24.
_EXACT_WIDTH = 1024
_E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])
#: Both values of every byte of codes, that of the low nibble first.
_PAIRS = torch.stack((_E2M1.repeat(16), _E2M1.repeat_interleave(16)), dim=1)

#: The power of two of every e8m0 code; 255 is NaN, and 2^-127 is subnormal in fp32.
_POWERS = torch.tensor([2.0 ** (code - 127) for code in range(255)] + [torch.nan])


def gpu_matmul(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    inner = torch.promote_types(x.dtype, torch.float32)
    _finish(x.to(inner) @ weight.to(inner).T, bias, out)


def gpu_scaled_matmul_int8(
    x_codes: Tensor, x_scales: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    inner = torch.promote_types(x_scales.dtype, torch.float32)
    sums = torch.zeros(out.shape, dtype=torch.float64)
    for x, weight in zip(x_codes.split(_EXACT_WIDTH, dim=1), codes.split(_EXACT_WIDTH, dim=1), strict=True):
        sums += x.to(torch.float32) @ weight.to(torch.float32).T
    _finish(sums.to(inner) * (x_scales[:, None] * scales), bias, out)


def gpu_scaled_matmul_e4m3_tensor(
    x_codes: Tensor, x_scales: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    _finish((x_codes.to(x_scales.dtype) @ codes.to(scales.dtype).T) * (x_scales * scales), bias, out)


def gpu_scaled_matmul_e4m3(
    x_codes: Tensor, x_scales: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    _finish((x_codes.to(x_scales.dtype) @ codes.to(scales.dtype).T) * (x_scales[:, None] * scales), bias, out)


def gpu_scaled_matmul_e4m3_block(
    x_codes: Tensor, x_scales: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    sums = torch.zeros(out.shape, dtype=scales.dtype)
    channel_scales = scales.repeat_interleave(BLOCK_WIDTH, dim=0)[: codes.shape[0]]
    blocks = zip(x_codes.split(BLOCK_WIDTH, dim=1), codes.split(BLOCK_WIDTH, dim=1), strict=True)
    for block, (x, weight) in enumerate(blocks):
        products = x.to(scales.dtype) @ weight.to(scales.dtype).T
        sums += products * (x_scales[:, block, None] * channel_scales[:, block])
    _finish(sums, bias, out)


def gpu_scaled_matmul_mxfp4(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor) -> None:
    inner = torch.promote_types(x.dtype, torch.float32)
    values = _PAIRS.index_select(0, codes.reshape(-1).int()).view(*scales.shape, MX_WIDTH)
    powers = _POWERS.index_select(0, scales.reshape(-1).int()).view(*scales.shape, 1)
    weight = (values * powers).view(codes.shape[0], -1).to(x.dtype)
    _finish(x.to(inner) @ weight.to(inner).T, bias, out)


def _finish(value: Tensor, bias: Tensor | None, out: Tensor) -> None:
    out.copy_(value if bias is None else value + bias)
