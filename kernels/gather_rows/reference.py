"""Selected rows of a matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_rows(x: Tensor, rows: Tensor, out: Tensor) -> None:
    out.copy_(x[rows])


def gather_rows_a8(
    x_codes: Tensor, x_scales: Tensor, x_sums: Tensor, rows: Tensor, codes: Tensor, scales: Tensor, sums: Tensor
) -> None:
    each = len(x_codes) // max(len(x_scales), 1)
    rows_of_codes = (rows[:, None] * each + torch.arange(each)).flatten()
    scales.copy_(x_scales[rows])
    codes.copy_(x_codes[rows_of_codes])
    sums.copy_(x_sums[rows_of_codes])


gather_rows_a16 = gather_rows_a8
