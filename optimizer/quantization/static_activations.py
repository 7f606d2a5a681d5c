"""Scales of activations that are fixed before serving: of a tensor, from the largest input that calibration met."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from artifacts.precision import Scheme
from kernels.formats.fp8 import INPUT_SCALE
from kernels.scaled_matmul.packing import E4M3_MAX
from optimizer.formats.matrix import QuantizationError, QuantizedMatrix, Quantizer
from optimizer.quantization.calibration import Calibration

#: inputs that were all zero have a scale too, as kernels/quantize_activations gives one to rows of zeros
_LEAST = 1e-10


def static_scale(max_abs: Tensor) -> Tensor:
    """fp32 [1], under which the largest input of `max_abs` fp32 [K] is e4m3's largest; what is larger at run time saturates."""
    return max_abs.amax().clamp(min=_LEAST).reshape(1) / E4M3_MAX


@dataclass(frozen=True)
class StaticActivations:
    """A Quantizer that adds the scale of inputs to what `quantize` gives, under schemes that have one."""

    quantize: Quantizer
    calibration: Calibration

    def __call__(self, name: str, weight: torch.Tensor, scheme: Scheme) -> QuantizedMatrix:
        matrix = self.quantize(name, weight, scheme)
        if not scheme.static_activations:
            return matrix
        if not self.calibration.covers(name):
            raise QuantizationError(f"{name} cannot take {scheme.name}: it has no inputs to calibrate a scale with")
        return matrix.with_part(INPUT_SCALE, static_scale(self.calibration.statistics(name).max_abs).numpy())
