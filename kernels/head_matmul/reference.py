"""A product of each head."""

from __future__ import annotations

import torch
from torch import Tensor


def head_matmul(x: Tensor, weight: Tensor, out: Tensor) -> None:
    _, k, n = weight.shape
    out[:, :, :n] = torch.einsum("thk,hkn->thn", x[:, :, :k], weight)
