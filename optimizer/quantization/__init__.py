"""Weights on a scheme's grid."""

from optimizer.formats.grid import Grid
from optimizer.formats.matrix import (
    ErrorStatistics,
    NonFiniteWeightError,
    QuantizationError,
    QuantizedMatrix,
    Quantizer,
    WeightRangeError,
)
from optimizer.quantization.calibration import Calibration
from optimizer.quantization.clipping import fit_clipped_grid
from optimizer.quantization.gptq import Gptq
from optimizer.quantization.grid import GridFit, fit_grid
from optimizer.quantization.input_statistics import InputStatistics
from optimizer.quantization.method import (
    ROUND_TO_NEAREST,
    Method,
    clipped_rounding_method,
    gptq_method,
    with_static_activations,
)
from optimizer.quantization.packed import pack_matrix
from optimizer.quantization.rtn import round_to_nearest

__all__ = [
    "ROUND_TO_NEAREST",
    "Calibration",
    "ErrorStatistics",
    "Gptq",
    "Grid",
    "GridFit",
    "InputStatistics",
    "Method",
    "NonFiniteWeightError",
    "QuantizationError",
    "QuantizedMatrix",
    "Quantizer",
    "WeightRangeError",
    "clipped_rounding_method",
    "fit_clipped_grid",
    "fit_grid",
    "gptq_method",
    "pack_matrix",
    "round_to_nearest",
    "with_static_activations",
]
