"""Selected rows of a matrix; zeros for padding."""

from __future__ import annotations

import torch
from torch import Tensor


def gpu_gather_rows(x: Tensor, rows: Tensor, out: Tensor) -> None:
    there = (rows >= 0) & (rows < x.shape[0])
    out.copy_(torch.where(there[:, None], x[torch.where(there, rows, 0)], 0))
