"""Checkpoints that were quantized elsewhere: float values for every plan, and the stored codes for schemes that hold them."""

from optimizer.importers.prequantized.checkpoint import QuantizedCheckpoint
from optimizer.importers.prequantized.method import QuantizationConfig
from optimizer.importers.prequantized.methods import quantization_method

__all__ = ["QuantizationConfig", "QuantizedCheckpoint", "quantization_method"]
