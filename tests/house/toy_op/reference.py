"""max(x, 0)^2."""

from __future__ import annotations

from torch import Tensor


def relu_squared(x: Tensor, out: Tensor) -> None:
    out.copy_(x.relu() ** 2)
