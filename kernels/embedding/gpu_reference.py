"""Rows of tables, dequantized in fp32, or in fp64 where out is; zeros for padding."""

from __future__ import annotations

import torch
from torch import Tensor


def _write(out: Tensor, token_ids: Tensor, num_rows: int, rows: Tensor) -> None:
    there = (token_ids >= 0) & (token_ids < num_rows)
    out.copy_(torch.where(there[:, None], rows, 0))


def _by_row(paired: Tensor, rows: Tensor) -> Tensor:
    """[V/16, groups, 16] -> the groups of each of `rows`."""
    return paired[rows // 16].gather(2, (2 * (rows % 8) + rows % 16 // 8)[:, None, None].expand(-1, paired.shape[1], 1))[
        :, :, 0
    ]


def _int4(token_ids: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, out: Tensor) -> None:
    rows = _inside(token_ids, len(codes) * 16).long()
    groups, width = scales.shape[1], out.shape[1]
    # token, chunk, row % 8, k / 2 % 4, k / 32 % 2, row / 8; then k % 2 and k / 8 % 4 within the word
    tiles = codes.view(torch.int32)[rows // 16].view(len(rows), codes.shape[1], 8, 4, 2, 2)
    words = tiles[torch.arange(len(rows), device=rows.device), :, rows % 8, :, :, rows % 16 // 8]
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=rows.device).view(2, 4)
    nibbles = (words[..., None, None] >> shifts & 15).permute(0, 1, 3, 5, 2, 4).flatten(1)[:, :width]
    zero = 8 if zeros is None else _by_row(zeros.view(torch.int16), rows)[:, :, None]
    inner = torch.promote_types(out.dtype, torch.float32)
    centred = nibbles.reshape(len(rows), groups, width // groups) - zero
    _write(out, token_ids, len(codes) * 16, (centred.to(inner) * _by_row(scales, rows).to(inner)[:, :, None]).flatten(1))


def _inside(token_ids: Tensor, num_rows: int) -> Tensor:
    return token_ids.clamp(0, num_rows - 1)


def gpu_embedding_w16(token_ids: Tensor, weight: Tensor, out: Tensor) -> None:
    _write(out, token_ids, len(weight), weight[_inside(token_ids, len(weight))])


def gpu_embedding_int8(token_ids: Tensor, codes: Tensor, scales: Tensor, out: Tensor) -> None:
    rows = _inside(token_ids, len(codes))
    _write(out, token_ids, len(codes), codes[rows] * scales[rows, None])


def gpu_embedding_int4_sym(token_ids: Tensor, codes: Tensor, scales: Tensor, out: Tensor) -> None:
    _int4(token_ids, codes, scales, None, out)


def gpu_embedding_int4_asym(token_ids: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, out: Tensor) -> None:
    _int4(token_ids, codes, scales, zeros, out)
