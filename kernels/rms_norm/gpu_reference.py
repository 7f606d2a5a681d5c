"""Root mean square normalization: fp32 inside, or fp64 where x is; rounded where the kernel rounds."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.quantize_activations.gpu_reference import quantize_blocks, quantize_rows, quantize_with


def _normalized(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    inner = torch.promote_types(x.dtype, torch.float32)
    if residual is not None:
        residual.copy_(x.to(inner) + residual.to(inner))
        x = residual
    row = x.to(inner)
    return row * (row.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * weight


def gpu_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, out: Tensor, eps: float) -> None:
    out.copy_(_normalized(x, residual, weight, eps))


def gpu_rms_norm_int8(x: Tensor, residual: Tensor | None, weight: Tensor, codes: Tensor, scales: Tensor, eps: float) -> None:
    quantize_rows(_normalized(x, residual, weight, eps), codes, scales)


def gpu_rms_norm_e4m3(x: Tensor, residual: Tensor | None, weight: Tensor, codes: Tensor, scales: Tensor, eps: float) -> None:
    quantize_rows(_normalized(x, residual, weight, eps), codes, scales)


def gpu_rms_norm_e4m3_block(
    x: Tensor, residual: Tensor | None, weight: Tensor, codes: Tensor, scales: Tensor, eps: float
) -> None:
    quantize_blocks(_normalized(x, residual, weight, eps), codes, scales)


def gpu_rms_norm_e4m3_tensor(
    x: Tensor, residual: Tensor | None, weight: Tensor, codes: Tensor, scale: Tensor, eps: float
) -> None:
    quantize_with(_normalized(x, residual, weight, eps), codes, scale)
