"""A weight matrix on its scheme's grid, before any target's layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from artifacts.errors import UserError
from artifacts.precision import Scheme
from artifacts.weight_formats import FP8_BLOCK
from kernels.formats.format import Parts
from kernels.formats.fp8 import INPUT_SCALE
from kernels.formats.table import FORMATS
from kernels.spec import Array

_SLAB_ELEMENTS = 1 << 18
"""Of errors, which are summed in fp64: so many elements at a time stay in the caches."""


class QuantizationError(UserError):
    """A tensor that cannot take a scheme. The message names the tensor."""


class NonFiniteWeightError(QuantizationError):
    """The tensor holds NaN or infinity."""


class WeightRangeError(QuantizationError):
    """The tensor's values, or the scales they need, are beyond what the scheme can store."""


@dataclass(frozen=True)
class ErrorStatistics:
    """How far a quantized matrix is from its weights. `relative_rms` is ||W - Q|| / ||W||, 0 for a zero matrix."""

    max_abs: float
    rms: float
    relative_rms: float


@dataclass(frozen=True)
class QuantizedMatrix:
    """W[N, K] in a scheme. `parts` are its logical parts by the names that a bundle gives them, as kernels/formats/ has them.

    A name means one thing, from here to an export: `codes` (or the `weight` of a float scheme), the `scales` and `zeros` of
    groups or rows, `steps` of int4-twolevel, `row_scales` of nvfp4, `input_scale` of fp8-tensor.
    """

    scheme: Scheme
    parts: Parts
    rounding: float = 0.0
    """Of a checkpoint's own codes whose scales were rounded to the scheme's dtype: ||W - Q|| / ||W|| of its values, at most."""

    @property
    def codes(self) -> NDArray[Any]:
        """The codes, or the floats that need none."""
        return self.parts["weight" if self.scheme.is_float else "codes"]

    @property
    def scales(self) -> NDArray[Any] | None:
        return self.parts.get("scales")

    @property
    def zeros(self) -> NDArray[Any] | None:
        return self.parts.get("zeros")

    @property
    def row_scales(self) -> NDArray[Any] | None:
        return self.parts.get("row_scales")

    @property
    def input_scale(self) -> NDArray[Any] | None:
        return self.parts.get("input_scale")

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K): out_features, in_features."""
        num_rows, num_columns = self.codes.shape
        return num_rows, num_columns * FORMATS[self.scheme.weights].codes_per_byte

    def with_part(self, name: str, array: Array) -> QuantizedMatrix:
        return replace(self, parts={**self.parts, name: array})

    def rows(self, first: int, last: int) -> QuantizedMatrix:
        """Rows `first` to `last`; under fp8-block `first` begins a block."""

        def cut(name: str, part: Array) -> Array:
            if name == INPUT_SCALE:
                return part
            if name == "scales" and self.scheme.granularity == "block":
                assert first % FP8_BLOCK == 0
                return part[first // FP8_BLOCK : -(-last // FP8_BLOCK)]
            return part[first:last]

        return replace(self, parts={name: cut(name, part) for name, part in self.parts.items()})

    @classmethod
    def joined(cls, matrices: Sequence[QuantizedMatrix]) -> QuantizedMatrix:
        """The matrix of the rows of all, which are of one scheme; under fp8-block all but the last are whole blocks.

        They meet the same input: its scale is the one that holds all of it, as vLLM takes it.
        """
        first = matrices[0]
        together = {name: [matrix.parts[name] for matrix in matrices] for name in first.parts}
        parts = {
            name: np.max(arrays, axis=0) if name == INPUT_SCALE else np.concatenate(arrays) for name, arrays in together.items()
        }
        return cls(first.scheme, parts, max(matrix.rounding for matrix in matrices))

    def dequantize(self) -> NDArray[np.float32]:
        """The matrix that the kernels multiply by, fp32 [N, K]."""
        return FORMATS[self.scheme.weights].decode(self.parts).values()

    def error(self, weight: torch.Tensor) -> ErrorStatistics:
        """Distance to the fp32 [N, K] weights that this was made of; sums in fp64."""
        original, quantized = weight.detach().numpy(), self.dequantize()
        rows = max(1, _SLAB_ELEMENTS // max(1, original.shape[1]))
        largest = squared_error = squared_norm = 0.0
        for start in range(0, len(original), rows):
            slab = original[start : start + rows]
            difference = np.abs(slab - quantized[start : start + rows])
            largest = max(largest, float(difference.max(initial=0.0)))
            squared_error += float(np.square(difference, dtype=np.float64).sum())
            squared_norm += float(np.square(slab, dtype=np.float64).sum())
        return ErrorStatistics(
            max_abs=largest,
            rms=(squared_error / max(original.size, 1)) ** 0.5,
            relative_rms=(squared_error / squared_norm) ** 0.5 if squared_norm else 0.0,
        )


#: (tensor name, fp32 weight [N, K], scheme) -> matrix; raises QuantizationError.
Quantizer = Callable[[str, torch.Tensor, Scheme], QuantizedMatrix]
