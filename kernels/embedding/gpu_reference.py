"""Rows of tables, dequantized in fp32, or in fp64 where out is; zeros for padding."""

from __future__ import annotations

import torch
from torch import Tensor


def _write(out: Tensor, token_ids: Tensor, num_rows: int, rows: Tensor) -> None:
    there = (token_ids >= 0) & (token_ids < num_rows)
    out.copy_(torch.where(there[:, None], rows, 0))


def _inside(token_ids: Tensor, num_rows: int) -> Tensor:
    return token_ids.clamp(0, num_rows - 1)


def gpu_embedding_w16(token_ids: Tensor, weight: Tensor, out: Tensor) -> None:
    _write(out, token_ids, len(weight), weight[_inside(token_ids, len(weight))])


def gpu_embedding_int8(token_ids: Tensor, codes: Tensor, scales: Tensor, out: Tensor) -> None:
    rows = _inside(token_ids, len(codes))
    _write(out, token_ids, len(codes), codes[rows] * scales[rows, None])
