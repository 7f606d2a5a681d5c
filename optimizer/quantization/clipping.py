"""Scales that clip: a range narrower than the weights', where what is lost at its ends is won between its steps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from artifacts.precision import Scheme
from artifacts.weight_formats import FP8_BLOCK
from optimizer.formats.grid import Grid
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.table import CODECS
from optimizer.quantization.calibration import Calibration
from optimizer.quantization.grid import fit_grid
from optimizer.quantization.rtn import round_to_nearest


@dataclass(frozen=True)
class ClippedRounding:
    """A Quantizer that rounds to nearest on ranges clipped under the mean squares of inputs that `calibration` has.

    Embeddings, which have no inputs, keep their range.
    """

    calibration: Calibration

    def __call__(self, name: str, weight: Tensor, scheme: Scheme) -> QuantizedMatrix:
        if scheme.is_float or not self.calibration.covers(name):
            return round_to_nearest(name, weight, scheme)
        parts, rounded = self.calibration.parts(name), []
        for part, rows in zip(parts, weight.chunk(len(parts)), strict=True):
            importance = self.calibration.statistics(part).hessian.diagonal().clone()
            rounded.append(round_to_nearest(name, rows, scheme, partial(fit_clipped_grid, importance=importance)))
        return QuantizedMatrix.joined(rounded)


def fit_clipped_grid(
    name: str, weight: Tensor, scheme: Scheme, largest: float | None = None, importance: Tensor | None = None
) -> Grid:
    """The grid whose every scale has the least squared rounding error among its format's shares of its weights' range.

    `importance` [K], all ones by default, weighs the error of each column; with the mean square of its inputs, the error is
    that of the outputs, as far as inputs are uncorrelated. A scale of the whole tensor keeps its range: rows are fitted some
    at a time. Raises like `fit_grid`.
    """
    if scheme.granularity == "tensor":
        return fit_grid(name, weight, scheme, largest)
    columns = torch.arange(weight.shape[1])
    best_error: Tensor | None = None
    best_shrink = torch.ones(())
    for shrink in CODECS[scheme.weights].factors:
        grid = fit_grid(name, weight, scheme, largest, shrink)
        error = (grid.values(grid.codes(weight, columns), columns) - weight).square_()
        if importance is not None:
            error *= importance
        total = _sum_by_scale(error, scheme)
        if best_error is None:
            best_error, best_shrink = total, torch.full_like(total, shrink)
        else:
            better = total < best_error
            best_error = torch.where(better, total, best_error)
            best_shrink = torch.where(better, shrink, best_shrink)
    return fit_grid(name, weight, scheme, largest, best_shrink)


def _sum_by_scale(error: Tensor, scheme: Scheme) -> Tensor:
    """`error` [N, K] summed over the elements that share a scale, in the shape of the scheme's scales."""
    if scheme.granularity == "block":
        rows, columns = (-(-extent // FP8_BLOCK) for extent in error.shape)
        padding = (0, columns * FP8_BLOCK - error.shape[1], 0, rows * FP8_BLOCK - error.shape[0])
        return torch.nn.functional.pad(error, padding).reshape(rows, FP8_BLOCK, columns, FP8_BLOCK).sum(dim=(1, 3))
    if scheme.group_size:
        return error.reshape(error.shape[0], -1, scheme.group_size).sum(dim=2)
    return error.sum(dim=1)
