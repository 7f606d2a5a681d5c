"""int4 in groups, symmetric or with zero points.

Symmetric int4 maps the largest-magnitude element of a group to -8 (the scale takes the opposite sign, as in llama.cpp's
Q4_0) rather than to +-7: on SmolLM2-135M's linear weights taken off their grid, the relative RMS error is 0.114, 0.136
and 0.161 for groups of 32, 64 and 128, against 0.130, 0.155 and 0.183 for absmax / 7. Taking the better of the two for
each group would gain less than 0.5 % more.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from artifacts.precision import Scheme
from optimizer.formats.codec import Codec, CompressedTensors, config_group, copied, weight_arguments, words
from optimizer.formats.grid import Grid, Integers, fp16_scales
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.stored_matrix import MIDDLE, Misfit, StoredMatrix

_NUMBERS = Integers(0, 15, 8, torch.uint8)
_LARGEST_ROUNDING = 2.0**-11
"""Of ||W||: what rounding scales to fp16 costs at most, where none is too small for it."""


def _fit(name: str, weight: Tensor, scheme: Scheme, largest: float, shrink: Tensor | float) -> Grid:
    if scheme.symmetric:
        return symmetric_fit(name, weight, scheme, _NUMBERS, shrink)
    grouped = weight.reshape(weight.shape[0], -1, scheme.group_size)
    highest, lowest = grouped.amax(dim=2) * shrink, grouped.amin(dim=2) * shrink
    highest, lowest = highest.clamp_(min=0), lowest.clamp_(max=0)
    scales = fp16_scales(name, (highest - lowest) / 15, scheme.weights)
    spacing = scales.to(torch.float32)
    zeros = torch.where(spacing == 0, 0.0, -lowest / torch.where(spacing == 0, 1.0, spacing)).round_().clamp_(0, 15)
    return Grid(scheme, _NUMBERS, {"scales": scales, "zeros": zeros.to(torch.uint8)}, spacing, scheme.group_size)


def symmetric_fit(name: str, weight: Tensor, scheme: Scheme, numbers: Integers, shrink: Tensor | float) -> Grid:
    """The grid of fp16 scales, under which the largest magnitude of each group has the lowest code."""
    grouped = weight.reshape(weight.shape[0], -1, scheme.group_size)
    highest, lowest = grouped.amax(dim=2) * shrink, grouped.amin(dim=2) * shrink
    widest = torch.where(highest > -lowest, highest, lowest)
    scales = fp16_scales(name, widest / (numbers.lowest - numbers.zero), scheme.weights)
    return Grid(scheme, numbers, {"scales": scales}, scales.to(torch.float32), scheme.group_size)


def _kept(stored: StoredMatrix, scheme: Scheme) -> QuantizedMatrix | Misfit:
    if misfit := stored.wrong_kind("uint4"):
        return misfit
    zeros = np.full(stored.scales.shape, MIDDLE["uint4"], np.uint8) if stored.zeros is None else stored.zeros
    if scheme.symmetric and (zeros != MIDDLE["uint4"]).any():
        return Misfit("zero points are not all 8")
    with np.errstate(over="ignore"):
        halves = stored.scales.astype(np.float16)
    if not np.isfinite(halves).all():
        return Misfit("a scale is beyond fp16")
    scales, spread = stored.spread(halves, 1, scheme.group_size), stored.spread(zeros, 1, scheme.group_size)
    if scales is None or spread is None:
        return Misfit(f"a scale is for {stored.columns} columns, no multiple of {scheme.group_size}")
    exact = np.array_equal(halves.astype(np.float32), stored.scales)
    rounding = 0.0 if exact else stored.change(halves)
    if rounding > _LARGEST_ROUNDING:
        return Misfit("scales are too small for fp16")
    matrix = QuantizedMatrix(scheme, {"codes": stored.codes, "scales": scales}, rounding)
    return matrix if scheme.symmetric else matrix.with_part("zeros", spread)


def _config_group(scheme: Scheme) -> dict[str, object]:
    weights = weight_arguments(4, "int", "group", symmetric=scheme.symmetric, group_size=scheme.group_size)
    return config_group("pack-quantized", weights)


def _tensors(matrix: QuantizedMatrix) -> dict[str, torch.Tensor]:
    parts = {
        "weight_packed": words(matrix.codes, 4),
        "weight_scale": copied(matrix.scales),
        "weight_shape": torch.tensor(matrix.shape),
    }
    return parts if matrix.zeros is None else parts | {"weight_zero_point": words(matrix.zeros.T, 4).T.contiguous()}


INT4 = Codec(
    "int4",
    {
        "int4-g32-sym": "#93a93e",
        "int4-g64-sym": "#5f944a",
        "int4-g128-sym": "#35725a",
        "int4-g192-sym": "#1f5560",
        "int4-g32-asym": "#e3ab2c",
        "int4-g64-asym": "#dd7f2b",
        "int4-g128-asym": "#c44f3b",
        "int4-g192-asym": "#963a4d",
    },
    CompressedTensors(_config_group, _tensors),
    gguf="Q4_0",
    gguf_asymmetric="Q4_1",
    fit=_fit,
    kept=_kept,
)
