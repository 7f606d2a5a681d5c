"""An ONNX graph as it grows: nodes in order, and weights that go to a file of their own as soon as they are named."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from kernels.spec import Array

#: The first that has Attention, RotaryEmbedding and RMSNormalization; 4-bit integers and blocks of scales came in 21.
OPSET, IR_VERSION = 23, 11
_ALIGNMENT_BYTES = 4096
_NUMPY_KINDS = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}
_FOUR_BITS = (TensorProto.INT4, TensorProto.UINT4)

Value = str
"""The name of a tensor in the graph."""


class OnnxGraph:
    """Builds `folder`/model.onnx and, beside it, model.onnx.data with every weight: a context manager that owns that file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "model.onnx"
        self._data: BinaryIO = (folder / "model.onnx.data").open("wb")
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def __enter__(self) -> OnnxGraph:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._data.close()

    def input(self, name: Value, kind: int, *axes: str | int) -> Value:
        self._inputs.append(helper.make_tensor_value_info(name, kind, axes))
        return name

    def output(self, name: Value, kind: int, *axes: str | int) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, kind, axes))

    def op(self, kind: str, *inputs: Value, out: Value = "", **attributes: Any) -> Value:
        """Add a node with one output, called `out` if that is given; returns the output."""
        return self.ops(kind, *inputs, outs=(out or f"{kind}_{len(self._nodes)}",), **attributes)[0]

    def ops(self, kind: str, *inputs: Value, outs: tuple[Value, ...], **attributes: Any) -> tuple[Value, ...]:
        """Add a node with the outputs `outs`."""
        self._nodes.append(helper.make_node(kind, inputs, outs, f"{kind}_{len(self._nodes)}", **attributes))
        return outs

    def constant(self, values: object, dtype: str = "int64") -> Value:
        """A small constant, kept in the graph."""
        array = np.asarray(values, dtype)
        name = f"constant_{len(self._initializers)}"
        self._initializers.append(helper.make_tensor(name, _NUMPY_KINDS[dtype], array.shape, array.tobytes(), raw=True))
        return name

    def weight(self, name: Value, values: Array, kind: int | None = None) -> Value:
        """A weight, written out now. `kind` BFLOAT16 takes uint16 bits; INT4 and UINT4 take a code in each byte."""
        kind = _NUMPY_KINDS[values.dtype.name] if kind is None else kind
        data = _nibbles(values) if kind in _FOUR_BITS else np.ascontiguousarray(values)
        self._data.write(b"\0" * (-self._data.tell() % _ALIGNMENT_BYTES))
        tensor = TensorProto(name=name, data_type=kind, dims=values.shape, data_location=TensorProto.EXTERNAL)
        place = {"location": "model.onnx.data", "offset": self._data.tell(), "length": data.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._data.write(data.reshape(-1).view(np.uint8).data)
        self._initializers.append(tensor)
        return name

    def save(self, name: str) -> None:
        """Write the graph and have onnx.checker check it, shapes included; onnx's errors."""
        self._data.flush()
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="coldforge")
        model.ir_version = IR_VERSION
        onnx.save(model, self._path)
        onnx.checker.check_model(self._path, full_check=True)


def _nibbles(codes: Array) -> NDArray[np.uint8]:
    """Two codes to a byte, the first in its low half."""
    flat = np.zeros(math.ceil(codes.size / 2) * 2, np.uint8)
    flat[: codes.size] = codes.reshape(-1).astype(np.uint8) & np.uint8(15)
    return flat[0::2] | (flat[1::2] << np.uint8(4))
