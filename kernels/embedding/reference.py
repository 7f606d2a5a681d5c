"""Rows of packed tables, in the dtype of out, fp32 or fp64. Row n of a table is lane n % 16 of tile n // 16."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.packing import TWO_LEVEL_GROUP


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


def _nibbles(token_ids: Tensor, codes: Tensor) -> Tensor:
    """[T, K/8, 8]"""
    return (_rows(codes.view(torch.int32), token_ids)[:, :, None] >> torch.tensor([0, 8, 16, 24, 4, 12, 20, 28])) & 15


def _int4(token_ids: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, out: Tensor) -> None:
    grouped = _nibbles(token_ids, codes).reshape(len(token_ids), scales.shape[1], codes.shape[1] * 8 // scales.shape[1])
    zero = torch.tensor(8) if zeros is None else _rows(zeros, token_ids).to(torch.int32)[:, :, None]
    out.copy_(((grouped - zero).to(out.dtype) * _rows(scales, token_ids).to(out.dtype)[:, :, None]).flatten(1))


def embedding_int4_sym(token_ids: Tensor, codes: Tensor, scales: Tensor, out: Tensor) -> None:
    _int4(token_ids, codes, scales, None, out)


def embedding_int4_asym(token_ids: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, out: Tensor) -> None:
    _int4(token_ids, codes, scales, zeros, out)


def embedding_int4_twolevel(token_ids: Tensor, codes: Tensor, steps: Tensor, scales: Tensor, out: Tensor) -> None:
    pairs = _rows(steps, token_ids).to(torch.int32)
    of_group = torch.stack([pairs & 15, pairs >> 4], dim=2).flatten(1)
    centred = _nibbles(token_ids, codes).reshape(*of_group.shape, TWO_LEVEL_GROUP) - 8
    out.copy_((centred * of_group[:, :, None]).flatten(1).to(out.dtype) * scales.flatten()[token_ids, None])
