"""Root mean square normalization in the dtype of x."""

from __future__ import annotations

from torch import Tensor


def rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, out: Tensor, eps: float) -> None:
    if residual is not None:
        residual += x
        x = residual
    out.copy_(x * (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * weight)
