"""Root mean square normalization in the dtype of x."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.quantize_activations.reference import quantize_activations


def rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, out: Tensor, eps: float) -> None:
    if residual is not None:
        residual += x
        x = residual
    out.copy_(x * (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * weight)


def rms_norm_a8(
    x: Tensor, residual: Tensor | None, weight: Tensor, codes: Tensor, scales: Tensor, sums: Tensor, eps: float
) -> None:
    normed = torch.empty_like(x)
    rms_norm(x, residual, weight, normed, eps)
    quantize_activations(normed, codes, scales, sums)
