"""The residual stream plus a multiple of a branch."""

from __future__ import annotations

from torch import Tensor


def scaled_add(stream: Tensor, x: Tensor, factor: float) -> None:
    stream += factor * x
