"""Round-to-nearest quantization, ties to even."""

from __future__ import annotations

import torch
from torch import Tensor

from artifacts.precision import Scheme
from artifacts.weight_formats import FP8_BLOCK
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.table import CODECS
from optimizer.quantization.grid import GridFit, check_weight, fit_grid, largest_magnitude

_SLAB_ELEMENTS = 1 << 22
"""Rows are independent, so large matrices are rounded a slab at a time: temporaries stay near 100 MB."""


def round_to_nearest(name: str, weight: Tensor, scheme: Scheme, fit: GridFit = fit_grid) -> QuantizedMatrix:
    """`weight` fp32 [N, K] rounded to the grid that `fit` gives `scheme`; `name` is what errors call it.

    `-a8` schemes give the same codes as those without: int8 activations are a matter of run time.
    Scales are rounded to their stored type first and codes are computed against the rounded scale. A scale that
    rounds to zero makes its values zero.

    Raises NonFiniteWeightError on NaN or infinity, WeightRangeError where a value overflows bf16 or a scale overflows
    fp16, QuantizationError where the shape refuses the scheme.
    """
    weight = weight.detach()
    check_weight(name, weight, scheme)
    if (rounded := CODECS[scheme.weights].rounded) is not None:
        return QuantizedMatrix(scheme, {"weight": rounded(name, weight).numpy()})
    columns = torch.arange(weight.shape[1])
    slabs, largest = [], largest_magnitude(weight)
    for slab in row_slabs(weight, _SLAB_ELEMENTS):
        grid = fit(name, slab, scheme, largest)
        slabs.append(grid.matrix(grid.codes(slab, columns)))
    return QuantizedMatrix.joined(slabs)


def row_slabs(weight: Tensor, num_elements: int) -> tuple[Tensor, ...]:
    """`weight` cut along its rows into slabs of about `num_elements`, of whole blocks of fp8-block."""
    rows = max(FP8_BLOCK, num_elements // max(1, weight.shape[1]) // FP8_BLOCK * FP8_BLOCK)
    return torch.split(weight, rows)
