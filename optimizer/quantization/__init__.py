"""Weights on a scheme's grid."""

from optimizer.quantization.matrix import (
    ErrorStatistics,
    NonFiniteWeightError,
    QuantizationError,
    QuantizedMatrix,
    Quantizer,
    WeightRangeError,
)
from optimizer.quantization.packed import pack_matrix
from optimizer.quantization.rtn import round_to_nearest

__all__ = [
    "ErrorStatistics",
    "NonFiniteWeightError",
    "QuantizationError",
    "QuantizedMatrix",
    "Quantizer",
    "WeightRangeError",
    "pack_matrix",
    "round_to_nearest",
]
