"""Weights of a call as torch has them: what the references of all CPU kernels are made of, one for each layout."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.formats.format import LANES, untiled
from kernels.formats.table import cpu_products
from kernels.spec import Array


class Weights(NamedTuple):
    """`kernels.formats.format.Decoded` in torch."""

    units: Tensor
    group_scales: Tensor | None
    row_scales: Tensor | None
    group_size: int

    def rounded_once(self, dtype: torch.dtype) -> Tensor:
        """Units times the scale of their group, [N, K]."""
        units = self.units.to(dtype)
        if self.group_scales is None:
            return units
        return units * self.group_scales.to(dtype).repeat_interleave(self.group_size, dim=1)


def decoded(product: str, tiles: dict[str, Tensor], num_rows: int | None = None, rows: Tensor | None = None) -> Weights:
    """The first `num_rows` rows, or those of numbers `rows`, of the matrix that `quant_matmul_<product>` reads as `tiles`."""
    weights, layout = cpu_products()[product]
    if rows is None:
        parts = {name: untiled(_array(tensor))[:num_rows] for name, tensor in tiles.items()}
    else:
        parts = {name: _array(_looked_up(tensor, rows)) for name, tensor in tiles.items()}
    found = weights.decode(layout.from_rows(parts))
    group_scales, row_scales = (
        None if scales is None else torch.from_numpy(scales) for scales in (found.group_scales, found.row_scales)
    )
    return Weights(torch.from_numpy(found.units), group_scales, row_scales, found.group_size)


def _looked_up(tiles: Tensor, rows: Tensor) -> Tensor:
    """[N/16, X, 16, ...] -> those of `rows`, [T, X, ...]."""
    tile, lane = rows // LANES, rows % LANES
    return tiles[tile, lane] if tiles.ndim == 2 else tiles[tile, :, lane]


def _array(tensor: Tensor) -> Array:
    """bf16 as its bit patterns."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
