"""A weight matrix on its scheme's grid, before any kernel's memory layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from artifacts.errors import UserError
from artifacts.precision import FP8_BLOCK, Scheme
from kernels.scaled_matmul.packing import decode_e4m3, decode_mxfp4, decode_nvfp4

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
    """W[N, K] as logical codes.

    | weights | codes [N, K]              | scales         | zeros         | value              |
    | fp32    | float32                   |                |               | codes              |
    | bf16    | uint16, the bit patterns  |                |               | codes              |
    | int8    | int8, rounded: -127..127  | f32 [N]        |               | scale codes        |
    | int4    | uint8 in 0..15, groups G  | f16 [N, K / G] | u8 [N, K / G] | scale (codes - zero) |
    | fp8     | uint8, e4m3 bit patterns  | f32 [N], or [N / 128, K / 128] rounded up | | scale e4m3(codes) |
    | mxfp4   | uint8 [N, K / 2], see kernels/scaled_matmul/packing.py | u8 [N, K / 32], e8m0 | | |
    | int4-twolevel | uint8 in 0..15      | u8 [N, K / 16] in 1..15 |  | row_scale scale (codes - 8) |
    | nvfp4   | the same                  | u8 [N, K / 16], e4m3 |  | row_scale e4m3(scale) e2m1(codes) |

    Symmetric int4 has no `zeros`: its zero is 8. A symmetric int4 scale may be negative.
    Every product of a scale and a code is exact in fp32 for int4, and rounded once for int8, int4-twolevel, fp8 and nvfp4.
    """

    scheme: Scheme
    codes: NDArray[np.generic]
    scales: NDArray[np.floating] | None = None
    zeros: NDArray[np.uint8] | None = None
    row_scales: NDArray[np.float32] | None = None
    """f32 [N]: int4-twolevel's scale of the row; nvfp4's of the tensor that a row is of, one each where matrices are joined."""
    input_scale: NDArray[np.float32] | None = None
    """f32 [1], fp8-tensor's: the calibrated scale of the activations that meet this matrix."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K): out_features, in_features."""
        num_rows, num_columns = self.codes.shape
        return num_rows, num_columns * (2 if self.scheme.weights in ("mxfp4", "nvfp4") else 1)

    def dequantize(self) -> NDArray[np.float32]:
        """The matrix that the kernels multiply by, fp32 [N, K]."""
        if self.scheme.weights == "fp32":
            return self.codes.astype(np.float32)
        if self.scheme.weights == "bf16":
            return (self.codes.astype(np.uint32) << np.uint32(16)).view(np.float32)
        assert self.scales is not None
        if self.scheme.weights == "mxfp4":
            return decode_mxfp4(self.codes.astype(np.uint8), self.scales.astype(np.uint8))
        if self.scheme.weights == "nvfp4":
            assert self.row_scales is not None
            return decode_nvfp4(self.codes.astype(np.uint8), self.scales.astype(np.uint8), self.row_scales)
        scales = self.scales.astype(np.float32)
        if self.scheme.weights == "fp8":
            if self.scheme.granularity == "block":
                scales = np.repeat(np.repeat(scales, FP8_BLOCK, 0), FP8_BLOCK, 1)[: self.codes.shape[0], : self.codes.shape[1]]
            else:
                scales = scales[:, None]
            return decode_e4m3(self.codes.astype(np.uint8)) * scales
        if self.scheme.weights == "int8":
            return self.codes.astype(np.float32) * scales[:, None]
        if self.scheme.weights == "int4-twolevel":
            return self.as_int8().dequantize()
        centred = self.codes.astype(np.float32).reshape(*scales.shape, self.scheme.group_size)
        centred -= np.float32(8) if self.zeros is None else self.zeros.astype(np.float32)[:, :, None]
        centred *= scales[:, :, None]
        return centred.reshape(self.shape)

    def as_int8(self) -> QuantizedMatrix:
        """An int4-twolevel matrix as an int8 one of the same values bit for bit: codes are the integers of the first level."""
        assert self.scheme.weights == "int4-twolevel" and self.scales is not None
        steps = np.repeat(self.scales.astype(np.int8), self.scheme.group_size, axis=1)
        scheme = Scheme("int8", int8_activations=self.scheme.int8_activations)
        return QuantizedMatrix(scheme, (self.codes.astype(np.int8) - np.int8(8)) * steps, self.row_scales)

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
