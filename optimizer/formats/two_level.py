"""int4-twolevel: the widest group of a row has the largest step, and every other the nearest (decision 0026)."""

from __future__ import annotations

import torch
from torch import Tensor

from artifacts.precision import Scheme
from kernels.formats.two_level import integers
from optimizer.formats.codec import SHRINK_FACTORS, Codec, Widened
from optimizer.formats.grid import Grid, Integers
from optimizer.formats.int8 import INT8
from optimizer.formats.matrix import QuantizedMatrix

_NUMBERS = Integers(0, 15, 8, torch.uint8)
#: of 4 bits: times -8, the lowest code, it is -120
_LARGEST_STEP = 15
#: A step is one of fifteen, and one that is wider than the range may lie closer to the weights.
_FACTORS = SHRINK_FACTORS + tuple(1 + step / 20 for step in range(1, 9))


def _fit(name: str, weight: Tensor, scheme: Scheme, largest: float, shrink: Tensor | float) -> Grid:
    """The range of a group is 15 units of its step, so that either end lies half a unit from a code."""
    units = weight.reshape(weight.shape[0], -1, scheme.group_size).abs().amax(dim=2) / 7.5
    scales = units.amax(dim=1) / _LARGEST_STEP
    scales[scales < torch.finfo(torch.float32).smallest_normal] = 0
    steps = (units * shrink / torch.where(scales == 0, 1.0, scales)[:, None]).round_().clamp_(1, _LARGEST_STEP)
    parts = {"steps": steps.to(torch.uint8), "scales": scales}
    return Grid(scheme, _NUMBERS, parts, steps * scales[:, None], scheme.group_size)


def _int8_scheme(scheme: Scheme) -> Scheme:
    return Scheme("int8", int8_activations=scheme.int8_activations)


def as_int8(matrix: QuantizedMatrix) -> QuantizedMatrix:
    """An int8 matrix of the same values bit for bit: codes are the integers of the first level."""
    parts = {"codes": integers(matrix.parts), "scales": matrix.parts["scales"]}
    return QuantizedMatrix(_int8_scheme(matrix.scheme), parts)


INT4_TWO_LEVEL = Codec(
    "int4-twolevel",
    {"int4-twolevel": "#b9c977"},
    INT8.compressed_tensors,
    gguf=INT8.gguf,
    fit=_fit,
    factors=_FACTORS,
    widened=Widened(
        _int8_scheme,
        as_int8,
        "size: layers in int4-twolevel are written as int8 of the same values bit for bit, for no format here has two "
        "levels of scales; they take twice the room",
    ),
)
