"""int3 in groups of 32, symmetric: the largest magnitude of a group has the lowest code, as in int4."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from artifacts.precision import Scheme
from optimizer.formats.codec import Codec, Widened
from optimizer.formats.grid import Grid, Integers
from optimizer.formats.int4 import INT4, symmetric_fit
from optimizer.formats.matrix import QuantizedMatrix

_NUMBERS = Integers(0, 7, 4, torch.uint8)


def _fit(name: str, weight: Tensor, scheme: Scheme, largest: float, shrink: Tensor | float) -> Grid:
    return symmetric_fit(name, weight, scheme, _NUMBERS, shrink)


def _int4_scheme(scheme: Scheme) -> Scheme:
    return Scheme("int4", scheme.group_size)


def as_int4(matrix: QuantizedMatrix) -> QuantizedMatrix:
    """An int4 matrix of the same values bit for bit: its zero is 8, and that of three bits is 4."""
    return QuantizedMatrix(_int4_scheme(matrix.scheme), {**matrix.parts, "codes": matrix.codes + np.uint8(4)})


INT3 = Codec(
    "int3",
    {"int3": "#2f8f8a"},
    INT4.compressed_tensors,
    gguf=INT4.gguf,
    fit=_fit,
    widened=Widened(
        _int4_scheme,
        as_int4,
        "size: layers in int3 are written as int4-g32-sym of the same values bit for bit, for no engine that reads the formats "
        "here has such codes of three bits; they take 4.5 bits a weight and not 3.5",
    ),
)
