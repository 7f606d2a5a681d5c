"""Rows of packed tables, in the dtype of out, fp32 or fp64: one for each layout of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from kernels.formats.reference import decoded
from kernels.formats.table import FORMATS


def _embedding(product: str) -> Callable[..., None]:
    def look_up(token_ids: Tensor, out: Tensor, **tiles: Tensor) -> None:
        weights = decoded(product, tiles, rows=token_ids)
        rows = weights.rounded_once(out.dtype)
        out.copy_(rows if weights.row_scales is None else rows * weights.row_scales[:, None])

    return look_up


REFERENCES: Mapping[str, Callable[..., None]] = {
    f"embedding_{layout.name}": _embedding(layout.products[0]) for row in FORMATS.values() for layout in row.cpu
}
