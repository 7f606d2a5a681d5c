"""GPTQ (Frantar et al. 2022): columns are rounded one by one, and those still to come make up for the error of each.

For the loss tr(D H D^T) of a change D to the weights, rounding column j to q and setting the others to their best changes them
by -(w_j - q) / [H^-1]_jj [H^-1]_j: (equation 2). The inverse Hessians of what remains after each column are the rows of one
Cholesky factor (section 3.3): with H^-1 = U^T U, U upper triangular, column j's error is (w_j - q) / U_jj and goes to the later
columns by U_j:. Updates are applied within a block of columns at once and to the rest when the block is done (section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from artifacts.precision import Scheme
from optimizer.formats.grid import Grid
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.quantization.calibration import Calibration
from optimizer.quantization.clipping import fit_clipped_grid
from optimizer.quantization.grid import GridFit, check_weight, fit_grid, largest_magnitude
from optimizer.quantization.rtn import round_to_nearest, row_slabs

DAMPING = 0.01
"""Of the Hessian's mean diagonal, as in the paper's section 3.3."""

_BLOCK_COLUMNS = 128
_SLAB_ELEMENTS = 1 << 25
"""Rows are independent given the factor: a slab holds two fp32 copies of so many elements."""
_MAX_DAMPING = 1e4


@dataclass(frozen=True)
class Gptq:
    """A Quantizer that takes each group's Hessian from `calibration`.

    Rounds to nearest what has none: embeddings, which are looked up, groups whose inputs were all zero (experts that no token
    went to), and float schemes.
    `clip` narrows the range of each scale first, where that lowers the error under the mean squares of the inputs.
    """

    calibration: Calibration
    clip: bool = False
    damping: float = DAMPING
    activation_order: bool = True

    def __call__(self, name: str, weight: Tensor, scheme: Scheme) -> QuantizedMatrix:
        if scheme.is_float or not self.calibration.covers(name):
            return round_to_nearest(name, weight, scheme)
        parts = self.calibration.parts(name)
        return QuantizedMatrix.joined(
            [self._part(name, part, rows, scheme) for part, rows in zip(parts, weight.chunk(len(parts)), strict=True)]
        )

    def _part(self, name: str, part: str, weight: Tensor, scheme: Scheme) -> QuantizedMatrix:
        hessian = self.calibration.statistics(part).hessian
        fit = partial(fit_clipped_grid, importance=hessian.diagonal().clone()) if self.clip else fit_grid
        return gptq(name, weight, scheme, hessian, fit, damping=self.damping, activation_order=self.activation_order)


def gptq(
    name: str,
    weight: Tensor,
    scheme: Scheme,
    hessian: Tensor,
    fit: GridFit = fit_grid,
    *,
    damping: float = DAMPING,
    activation_order: bool = True,
) -> QuantizedMatrix:
    """`weight` fp32 [N, K] on the grid that `fit` gives `scheme`, rounded for the least error under `hessian` fp32 [K, K].

    The grid is that of the weights as they came ("static groups"), so a column finds its scale whenever its turn comes.
    `activation_order` begins with the columns of the largest inputs, while most others can still adapt.
    Raises QuantizationError like `round_to_nearest`.
    """
    weight = weight.detach()
    check_weight(name, weight, scheme)
    diagonal = hessian.diagonal()
    order = diagonal.argsort(descending=True, stable=True) if activation_order else torch.arange(len(diagonal))
    factor = inverse_factor(hessian, order, damping)
    if factor is None:
        return round_to_nearest(name, weight, scheme, fit)
    slabs, largest = [], largest_magnitude(weight)
    for slab in row_slabs(weight, _SLAB_ELEMENTS):
        grid = fit(name, slab, scheme, largest)
        slabs.append(grid.matrix(_codes(slab, grid, factor, order)))
    return QuantizedMatrix.joined(slabs)


def _codes(weight: Tensor, grid: Grid, factor: Tensor, order: Tensor) -> Tensor:
    """Logical codes [N, K], given `inverse_factor` in the same `order` i64 [K]."""
    # Columns as rows: each is read and written whole.
    rest = weight.T[order].contiguous()
    codes: list[Tensor] = []
    for start in range(0, len(order), _BLOCK_COLUMNS):
        stop = min(start + _BLOCK_COLUMNS, len(order))
        errors = torch.empty(stop - start, weight.shape[0])
        for j in range(start, stop):
            place, column = order[j : j + 1], rest[j, :, None]
            rounded = grid.codes(column, place)
            codes.append(rounded[:, 0])
            error = torch.div((column - grid.values(rounded, place))[:, 0], factor[j, j], out=errors[j - start])
            rest[j + 1 : stop].addr_(factor[j, j + 1 : stop], error, alpha=-1)
        rest[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    return torch.stack(codes, dim=1)[:, order.argsort()]


def inverse_factor(hessian: Tensor, order: Tensor, damping: float = DAMPING) -> Tensor | None:
    """U fp32 [K, K], upper triangular with U^T U = (H + damping mean(diag H) I)^-1, for `hessian` H in `order`.

    Damping is raised tenfold until the sum is positive definite in fp32. None for a Hessian of zeros, about which there is
    nothing to make up for.
    """
    mean = float(hessian.diagonal().mean())
    if mean == 0:
        return None
    # The reversed Hessian's Cholesky factor L, reversed again, is an upper R with R R^T = H; then U = R^-1.
    backwards = order.flip(0)
    damped = hessian[backwards[:, None], backwards]
    diagonal = damped.diagonal().clone()
    while damping <= _MAX_DAMPING:
        damped.diagonal().copy_(diagonal + damping * mean)
        lower, info = torch.linalg.cholesky_ex(damped)
        if not info:
            upper: Tensor = lower.flip(0, 1)
            del damped, lower
            factor: Tensor = torch.linalg.solve_triangular(upper, torch.eye(len(upper)), upper=True)
            return factor
        damping *= 10
    raise ValueError(f"a Hessian must be symmetric and finite; damped by {_MAX_DAMPING:g} of its diagonal it is not positive")
