"""The numbers that a scheme allows a matrix, as its format fits them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from artifacts.precision import Scheme
from optimizer.formats.grid import Grid
from optimizer.formats.matrix import NonFiniteWeightError, QuantizationError
from optimizer.formats.table import CODECS

#: (tensor name, fp32 weight [N, K] or some of its rows, scheme, largest magnitude of the whole) -> grid; QuantizationError.
GridFit = Callable[[str, Tensor, Scheme, float], Grid]


def check_weight(name: str, weight: Tensor, scheme: Scheme) -> None:
    """Raises QuantizationError where `weight` cannot take `scheme`, NonFiniteWeightError where it is damaged."""
    if weight.ndim != 2 or weight.dtype != torch.float32:
        raise QuantizationError(f"{name}: a matrix must be fp32 [N, K], got {weight.dtype} {list(weight.shape)}")
    refusal = scheme.refusal(weight.shape[0], weight.shape[1])
    if refusal is not None:
        raise QuantizationError(f"{name} cannot take {scheme.name}: {refusal}")
    if not torch.isfinite(weight).all():
        num_bad = int((~torch.isfinite(weight)).sum())
        raise NonFiniteWeightError(f"{name}: weights must be finite, got {num_bad} NaN or infinite; the checkpoint is damaged")


def largest_magnitude(weight: Tensor) -> float:
    """max |W|, 0 of an empty matrix: what a scale of the whole tensor is made of."""
    return max(-float(weight.min()), float(weight.max())) if weight.numel() else 0.0


def fit_grid(name: str, weight: Tensor, scheme: Scheme, largest: float | None = None, shrink: Tensor | float = 1.0) -> Grid:
    """The grid that spans the range of `weight` fp32 [N, K], or `shrink` times that range.

    `largest` is the largest magnitude of the matrix where `weight` is some of its rows. `shrink` is a number, or one for each
    scale, fp32 in the shape of the scheme's scales; that of a whole tensor (fp8-tensor's, and nvfp4's fp32 one) is not shrunk.
    Scales are rounded to their stored type. WeightRangeError where one overflows fp16.
    """
    fit = CODECS[scheme.weights].fit
    assert fit is not None, f"{scheme.name} has no scales"
    return fit(name, weight, scheme, largest_magnitude(weight) if largest is None else largest, shrink)
