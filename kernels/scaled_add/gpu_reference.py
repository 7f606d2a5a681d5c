"""The residual stream plus a multiple of a branch: in fp32, or in fp64 where they are, rounded once."""

from __future__ import annotations

import torch
from torch import Tensor


def gpu_scaled_add(stream: Tensor, x: Tensor, factor: float) -> None:
    inner = torch.promote_types(stream.dtype, torch.float32)
    stream.copy_(stream.to(inner) + factor * x.to(inner))
