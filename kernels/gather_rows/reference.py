"""Selected rows of a matrix."""

from __future__ import annotations

from torch import Tensor


def gather_rows(x: Tensor, rows: Tensor, out: Tensor) -> None:
    out.copy_(x[rows])
