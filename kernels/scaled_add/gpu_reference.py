"""The residual stream plus a multiple of a branch, and a multiple of both: in fp32, or in fp64 where they are, rounded once."""

from __future__ import annotations

import torch
from torch import Tensor


def gpu_scaled_add(stream: Tensor, x: Tensor, factor: float) -> None:
    inner = torch.promote_types(stream.dtype, torch.float32)
    stream.copy_(stream.to(inner) + factor * x.to(inner))


def gpu_scaled_sum(stream: Tensor, x: Tensor | None, scale: Tensor) -> None:
    inner = torch.promote_types(stream.dtype, torch.float32)
    whole = stream.to(inner) if x is None else stream.to(inner) + x.to(inner)
    stream.copy_(scale * whole)
