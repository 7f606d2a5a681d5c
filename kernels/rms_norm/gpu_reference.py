"""Root mean square normalization: fp32 inside, or fp64 where x is; rounded where the kernel rounds."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.quantize_activations.gpu_reference import in_every_form


def _rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    inner = torch.promote_types(x.dtype, torch.float32)
    if residual is not None:
        residual.copy_(x.to(inner) + residual.to(inner))
        x = residual
    row = x.to(inner)
    return row * (row.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * weight


REFERENCES = in_every_form("gpu_rms_norm", _rms_norm)
