"""A decoder in ONNX: weights by what the graph does with them, and the rest of the graph run against what the config says."""

from optimizer.importers.onnx_decoder.model import open_onnx

__all__ = ["open_onnx"]
