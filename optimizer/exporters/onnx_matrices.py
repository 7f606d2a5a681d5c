"""Quantized matrices in ONNX: DequantizeLinear over stored codes, and int8 activations as QuantizeLinear by a computed scale.

Scales are widened from fp16 to fp32, which loses nothing, for DequantizeLinear computes in the type of its scale.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from kernels.spec import Array
from optimizer.exporters.onnx_graph import OnnxGraph, Value
from optimizer.formats.matrix import QuantizedMatrix


def linear(graph: OnnxGraph, name: str, x: Value, matrix: QuantizedMatrix) -> Value:
    """x W^T of `matrix` W[N, K], stored as [K, N]: the form that runtimes have fused kernels for."""
    weight, codes = f"{name}.weight", matrix.codes.T
    x = quantized_activations(graph, x, matrix)
    if matrix.scales is None:
        return graph.op("MatMul", x, _widened(graph, graph.weight(weight, codes, _float_type(matrix)), matrix))
    if matrix.scales.ndim == 1:
        parts = graph.weight(weight, codes), graph.weight(f"{name}.scales", matrix.scales)
        return graph.op("MatMul", x, graph.op("DequantizeLinear", *parts, axis=1))
    scales = matrix.scales.T.astype(np.float32)
    if matrix.zeros is None:
        stored = [graph.weight(weight, _signed(codes), TensorProto.INT4), graph.weight(f"{name}.scales", scales)]
    else:
        stored = [graph.weight(weight, codes, TensorProto.UINT4), graph.weight(f"{name}.scales", scales)]
        stored.append(graph.weight(f"{name}.zeros", matrix.zeros.T, TensorProto.UINT4))
    return graph.op("MatMul", x, graph.op("DequantizeLinear", *stored, axis=0, block_size=matrix.scheme.group_size))


def quantized_activations(graph: OnnxGraph, x: Value, matrix: QuantizedMatrix) -> Value:
    """x as `matrix` meets it: where its scheme says so, rounded to int8 per token, symmetric, 127 for the largest magnitude."""
    if not matrix.scheme.int8_activations:
        return x
    largest = graph.op("ReduceMax", graph.op("Abs", x), graph.constant([-1]), keepdims=1)
    scale = graph.op("Div", largest, graph.constant(127, "float32"))
    positive = graph.op("Greater", scale, graph.constant(0, "float32"))
    scale = graph.op("Where", positive, scale, graph.constant(1, "float32"))
    width = matrix.shape[1]
    codes = graph.op("QuantizeLinear", x, scale, output_dtype=TensorProto.INT8, axis=-1, block_size=width)
    return graph.op("DequantizeLinear", codes, scale, axis=-1, block_size=width)


class Table:
    """The embedding, stored once as [V, H] for the rows that tokens look up and for a head that is tied to it.

    Gather takes no 4-bit integers: int4 codes have a byte each.
    """

    def __init__(self, graph: OnnxGraph, matrix: QuantizedMatrix) -> None:
        self._graph, self._matrix = graph, matrix
        self._parts = [graph.weight(f"embed.{name}", array, kind) for name, array, kind in _table_parts(matrix)]

    def rows(self, token_ids: Value) -> Value:
        """f32 [batch, sequence, H]."""
        graph, gathered = self._graph, [self._graph.op("Gather", part, token_ids, axis=0) for part in self._parts]
        if self._matrix.scales is not None:
            return graph.op("DequantizeLinear", *gathered, axis=-1, block_size=self._width)
        return _widened(graph, gathered[0], self._matrix)

    def head(self, x: Value) -> Value:
        """Logits of a tied head."""
        graph, weight = self._graph, self._parts[0]
        if self._matrix.scales is not None:
            weight = graph.op("DequantizeLinear", *self._parts, axis=1, block_size=self._width)
        else:
            weight = _widened(graph, weight, self._matrix)
        x = quantized_activations(graph, x, self._matrix)
        return graph.op("MatMul", x, graph.op("Transpose", weight, perm=[1, 0]))

    @property
    def _width(self) -> int:
        """Columns that share a scale."""
        return self._matrix.scheme.group_size or self._matrix.shape[1]


def _table_parts(matrix: QuantizedMatrix) -> list[tuple[str, Array, int | None]]:
    if matrix.scales is None:
        return [("weight", matrix.codes, _float_type(matrix))]
    scales = matrix.scales.astype(np.float32).reshape(matrix.shape[0], -1)
    if matrix.zeros is not None:
        return [("weight", matrix.codes, None), ("scales", scales, None), ("zeros", matrix.zeros, None)]
    codes = matrix.codes if matrix.scales.ndim == 1 else _signed(matrix.codes)
    return [("weight", codes, None), ("scales", scales, None)]


def _signed(codes: Array) -> Array:
    """Symmetric int4 codes without their zero, i8."""
    return codes.astype(np.int8) - np.int8(8)


def _float_type(matrix: QuantizedMatrix) -> int | None:
    """Of floats that numpy has no dtype for: bf16's bit patterns."""
    return TensorProto.BFLOAT16 if matrix.codes.dtype == np.uint16 else None


def _widened(graph: OnnxGraph, value: Value, matrix: QuantizedMatrix) -> Value:
    """Floats of `matrix` in fp32."""
    return value if _float_type(matrix) is None else graph.op("Cast", value, to=TensorProto.FLOAT)
