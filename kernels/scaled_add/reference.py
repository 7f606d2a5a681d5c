"""The residual stream plus a multiple of a branch, and a multiple of both."""

from __future__ import annotations

from torch import Tensor


def scaled_add(stream: Tensor, x: Tensor, factor: float) -> None:
    stream += factor * x


def scaled_sum(stream: Tensor, x: Tensor | None, scale: Tensor) -> None:
    stream.copy_(scale * (stream if x is None else stream + x))
