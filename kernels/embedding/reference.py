"""Rows of packed tables, in the dtype of out, fp32 or fp64. Row n of a table is lane n % 16 of tile n // 16."""

from __future__ import annotations

import torch
from torch import Tensor


def _rows(tiles: Tensor, token_ids: Tensor) -> Tensor:
    """[V/16, K, 16] -> [T, K]."""
    return tiles[token_ids // 16, :, token_ids % 16]


def embedding_fp32(token_ids: Tensor, weight: Tensor, out: Tensor) -> None:
    out.copy_(_rows(weight, token_ids))


def embedding_bf16(token_ids: Tensor, weight: Tensor, out: Tensor) -> None:
    out.copy_(_rows(weight, token_ids))


def embedding_int8(token_ids: Tensor, codes: Tensor, scales: Tensor, out: Tensor) -> None:
    out.copy_(_rows(codes, token_ids).to(out.dtype) * scales.flatten()[token_ids, None])


def embedding_int8_a8(token_ids: Tensor, codes: Tensor, scales: Tensor, out: Tensor) -> None:
    quads = codes[token_ids // 16, :, token_ids % 16].flatten(1)
    out.copy_((quads.to(out.dtype) - 128) * scales.flatten()[token_ids, None])


def _int4(token_ids: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, out: Tensor) -> None:
    words = _rows(codes.view(torch.int32), token_ids)
    nibbles = (words[:, :, None] >> torch.tensor([0, 8, 16, 24, 4, 12, 20, 28])) & 15
    grouped = nibbles.reshape(len(token_ids), scales.shape[1], codes.shape[1] * 8 // scales.shape[1])
    zero = torch.tensor(8) if zeros is None else _rows(zeros, token_ids).to(torch.int32)[:, :, None]
    out.copy_(((grouped - zero).to(out.dtype) * _rows(scales, token_ids).to(out.dtype)[:, :, None]).flatten(1))


def embedding_int4_sym(token_ids: Tensor, codes: Tensor, scales: Tensor, out: Tensor) -> None:
    _int4(token_ids, codes, scales, None, out)


def embedding_int4_asym(token_ids: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, out: Tensor) -> None:
    _int4(token_ids, codes, scales, zeros, out)
