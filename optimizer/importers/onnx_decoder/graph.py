"""An ONNX graph as its file has it: which node makes a value and which read it, what is constant, the data of initializers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from optimizer.importers.errors import DamagedFile, MissingFile, UnsupportedGraph

#: what is read as it lies; bf16 stays bits
_NUMPY: dict[int, str] = {
    TensorProto.FLOAT: "<f4",
    TensorProto.FLOAT16: "<f2",
    TensorProto.BFLOAT16: "<u2",
    TensorProto.INT8: "<i1",
    TensorProto.UINT8: "<u1",
    TensorProto.INT32: "<i4",
    TensorProto.INT64: "<i8",
    TensorProto.BOOL: "?",
}
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_FOUR_BITS = (TensorProto.INT4, TensorProto.UINT4)
#: what hands on values as they are, or in another float type
PASSING = ("Cast", "Identity")


@dataclass(frozen=True)
class OnnxFile:
    """A graph whose initializers are read when they are asked for."""

    path: Path
    model: onnx.ModelProto
    initializers: dict[str, TensorProto]
    """Those that are nodes of type Constant, too."""

    @classmethod
    def open(cls, path: Path) -> OnnxFile:
        """Raises MissingFile, DamagedFile: also for files of weights that are not there, or too short."""
        try:
            model = onnx.load_model(path, load_external_data=False)
        except (DecodeError, RuntimeError) as error:
            raise DamagedFile(f"{path} is truncated or not ONNX: {error}") from None
        if not model.graph.node or not model.graph.output:
            raise DamagedFile(f"{path} must hold a graph with nodes and outputs, it has none; export the model again")
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            value = attributes(node).get("value") if node.op_type == "Constant" else None
            if isinstance(value, TensorProto):
                stored[node.output[0]] = value
        file = cls(path, model, stored)
        for name in stored:
            file._check_external(name)
        return file

    @cached_property
    def makers(self) -> dict[str, onnx.NodeProto]:
        return {value: node for node in self.model.graph.node for value in node.output if value}

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.model.graph.node:
            for value in node.input:
                found[value].append(node)
        return found

    @cached_property
    def constants(self) -> set[str]:
        """Values that follow from initializers alone."""
        found = set(self.initializers)
        for node in self.model.graph.node:
            if node.op_type == "Constant" or (node.input and all(not value or value in found for value in node.input)):
                found.update(node.output)
        return found

    def upstream(self, values: Iterable[str], given: Collection[str]) -> list[onnx.NodeProto]:
        """The nodes that `values` follow from, where those of `given` are known and initializers are; in the graph's order."""
        wanted, found = list(values), set[str]()
        while wanted:
            value = wanted.pop()
            node = self.makers.get(value)
            if node is None or value in given or value in self.initializers or node.output[0] in found:
                continue
            found.add(node.output[0])
            wanted.extend(node.input)
        return [node for node in self.model.graph.node if node.output and node.output[0] in found]

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The graph and the files of its weights."""
        places = (self._external(name) for name in self.initializers)
        return self.path, *sorted({place[0] for place in places if place is not None})

    def where(self, name: str) -> str:
        return f"{name} in {self.path}"

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.initializers[name].dims)

    def kind(self, name: str) -> int:
        """onnx.TensorProto's data type of an initializer."""
        return self.initializers[name].data_type

    def array(self, name: str) -> NDArray[Any]:
        """The data of an initializer: bf16 as uint16, 4-bit integers in a byte each."""
        tensor, kind = self.initializers[name], self.kind(name)
        if kind not in _NUMPY and kind not in _FOUR_BITS:
            return numpy_helper.to_array(tensor, str(self.path.parent))
        shape = tuple(tensor.dims)
        data = self._octets(name)
        if kind in _FOUR_BITS:
            codes = np.stack((data & np.uint8(15), data >> np.uint8(4)), axis=-1).reshape(-1)[: math.prod(shape)]
            signed = kind == TensorProto.INT4
            return ((codes ^ np.uint8(8)).astype(np.int8) - np.int8(8) if signed else codes).reshape(shape)
        return data.view(_NUMPY[kind]).reshape(shape)

    def floats(self, name: str) -> NDArray[np.float32]:
        """The data of a float initializer in fp32."""
        array = self.array(name)
        if self.kind(name) == TensorProto.BFLOAT16:
            return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return array.astype(np.float32)

    def _octets(self, name: str) -> NDArray[np.uint8]:
        tensor, place = self.initializers[name], self._external(name)
        if place is not None:
            path, offset = place
            return np.fromfile(path, np.uint8, self._num_octets(name), offset=offset)
        if tensor.HasField("raw_data"):
            data = np.frombuffer(tensor.raw_data, np.uint8)
        else:
            data = np.frombuffer(numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data, np.uint8)
        if data.size != self._num_octets(name):
            raise DamagedFile(f"{self.where(name)} must have {self._num_octets(name)} bytes, it has {data.size}")
        return data

    def _num_octets(self, name: str) -> int:
        size, kind = math.prod(self.shape(name)), self.kind(name)
        return -(-size // 2) if kind in _FOUR_BITS else size * np.dtype(_NUMPY[kind]).itemsize

    def _external(self, name: str) -> tuple[Path, int] | None:
        """File and offset in bytes."""
        tensor = self.initializers[name]
        if tensor.data_location != TensorProto.EXTERNAL:
            return None
        stated = {entry.key: entry.value for entry in tensor.external_data}
        return self.path.parent / stated.get("location", ""), int(stated.get("offset", 0))

    def _check_external(self, name: str) -> None:
        place = self._external(name)
        if place is None:
            return
        path, offset = place
        if self.kind(name) not in _NUMPY and self.kind(name) not in _FOUR_BITS:
            what = TensorProto.DataType.Name(self.kind(name))
            raise UnsupportedGraph(f"{self.where(name)} has type {what} in a file of weights, which cannot be imported")
        if not path.resolve().is_relative_to(self.path.parent.resolve()):
            raise DamagedFile(f"{self.where(name)} must lie in a file beside the graph, got {str(path)!r}")
        if not path.is_file():
            raise MissingFile(f"{path} is not there; {self.where(name)} has its data in it")
        if path.stat().st_size < offset + self._num_octets(name):
            end = offset + self._num_octets(name)
            raise DamagedFile(f"{path} is truncated: {self.where(name)} ends at byte {end} of {path.stat().st_size}")


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def named(node: onnx.NodeProto) -> str:
    """For messages: what the node is and what it is called."""
    return f"{node.op_type} node {node.name or node.output[0]!r}"
