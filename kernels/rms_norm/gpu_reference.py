"""Root mean square normalization: fp32 inside, or fp64 where x is; rounded where the kernel rounds."""

from __future__ import annotations

import torch
from torch import Tensor


def gpu_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, out: Tensor, eps: float) -> None:
    inner = torch.promote_types(x.dtype, torch.float32)
    if residual is not None:
        residual.copy_(x.to(inner) + residual.to(inner))
        x = residual
    row = x.to(inner)
    out.copy_(row * (row.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * weight)
