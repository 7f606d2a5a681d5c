"""Matrices of an ONNX graph: floats, DequantizeLinear over codes, and the packed codes of MatMulNBits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from optimizer.formats.stored_matrix import MIDDLE, CodeKind, StoredMatrix
from optimizer.importers.errors import DamagedTensor, ShapeMismatch, UnsupportedGraph, UnsupportedQuantization
from optimizer.importers.onnx_decoder.graph import FLOATS, OnnxFile, attributes, named

_SIGNED = (TensorProto.INT4, TensorProto.INT8)
_CODES: dict[int, int] = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT8: 8, TensorProto.UINT8: 8}
_KINDS: dict[int, CodeKind] = {4: "uint4", 8: "uint8"}
_START_OVER = "export the model with weights in floats, or as MatMulNBits or DequantizeLinear of 4 or 8 bits"


class Matrix(Protocol):
    """W[N, K]."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def is_bf16(self) -> bool: ...

    @property
    def data(self) -> str:
        """The initializer that holds its floats or codes."""
        ...

    def read(self) -> torch.Tensor:
        """As stored, fp32 if it is quantized."""
        ...

    def stored(self) -> StoredMatrix | None:
        """None where it is not quantized."""
        ...


@dataclass(frozen=True)
class FloatMatrix:
    file: OnnxFile
    data: str
    transposed: bool

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.file.shape(self.data)
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def is_bf16(self) -> bool:
        return self.file.kind(self.data) == TensorProto.BFLOAT16

    def read(self) -> torch.Tensor:
        array = self.file.array(self.data)
        array = np.array(array.T if self.transposed else array, order="C")
        tensor = torch.from_numpy(array.view(np.int16) if self.is_bf16 else array)
        return tensor.view(torch.bfloat16) if self.is_bf16 else tensor

    def stored(self) -> None:
        """Nothing is quantized."""


@dataclass(frozen=True)
class _Quantized(ABC):
    file: OnnxFile
    data: str
    scales: str
    zeros: str | None

    is_bf16 = False

    @abstractmethod
    def stored(self) -> StoredMatrix:
        """Codes and scales as they stand."""

    def read(self) -> torch.Tensor:
        return torch.from_numpy(self.stored().dequantize())

    def _scales(self) -> NDArray[np.float32]:
        scales = self.file.floats(self.scales)
        if not np.isfinite(scales).all():
            raise DamagedTensor(f"{self.file.where(self.scales)} must hold finite scales; export the model again")
        return scales


@dataclass(frozen=True)
class DequantizedMatrix(_Quantized):
    """DequantizeLinear's: scales of a tensor, of an axis, or of blocks along it; `transposed` if the data is [K, N]."""

    transposed: bool
    axis: int
    block: int
    """Elements along `axis` that share a scale; 0: a scale for each index of it, or one for all where there is one."""

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.file.shape(self.data)
        return (columns, rows) if self.transposed else (rows, columns)

    def check(self, node: onnx.NodeProto) -> None:
        """UnsupportedQuantization, ShapeMismatch."""
        kind = self.file.kind(self.data)
        if kind not in _CODES or self.file.kind(self.scales) not in FLOATS:
            types = [TensorProto.DataType.Name(self.file.kind(name)) for name in (self.data, self.scales)]
            raise UnsupportedQuantization(f"{named(node)} has codes of type {types[0]} and scales of {types[1]}; {_START_OVER}")
        expected = tuple(-(-extent // part) for extent, part in zip(self.file.shape(self.data), self._extents(), strict=True))
        for name in (self.scales, self.zeros):
            if name is not None and _wide(self.file.shape(name)) != _wide(expected):
                raise ShapeMismatch(
                    f"{self.file.where(name)} has shape {list(self.file.shape(name))}, but the codes of {named(node)} make it "
                    f"{list(expected)}"
                )

    def _extents(self) -> tuple[int, int]:
        """Rows and columns, as the data lies, that share a scale."""
        shape = self.file.shape(self.data)
        if not self.block and not _wide(self.file.shape(self.scales)):
            return shape[0], shape[1]
        along, across = (self.block, 1) if self.block else (1, shape[1 - self.axis])
        return (along, across) if self.axis == 0 else (across, along)

    def stored(self) -> StoredMatrix:
        """Codes of a byte that four bits would hold, in blocks, are of four bits: Gather has none of its own for those."""
        rows, columns = self._extents()
        codes, signed = self.file.array(self.data), self.file.kind(self.data) in _SIGNED
        narrow = _CODES[self.file.kind(self.data)] == 4
        if not narrow and self.block:
            lowest, highest = (-8, 7) if signed else (0, 15)
            narrow = bool(codes.min() >= lowest and codes.max() <= highest)
        kind = _KINDS[4 if narrow else 8]
        middle = np.int16(MIDDLE[kind] if signed else 0)
        scales = self._scales()
        scales = scales.reshape([-(-extent // part) for extent, part in zip(codes.shape, (rows, columns), strict=True)])
        zeros = np.zeros(scales.shape, np.int16) if self.zeros is None else self.file.array(self.zeros).reshape(scales.shape)
        parts = [codes + middle, zeros + middle]
        if self.transposed:
            parts, scales, rows, columns = [part.T for part in parts], scales.T, columns, rows
        unsigned, from_zero = (np.ascontiguousarray(part, np.uint8) for part in parts)
        is_middle = signed and self.zeros is None
        return StoredMatrix(kind, unsigned, np.ascontiguousarray(scales), rows, columns, None if is_middle else from_zero)


@dataclass(frozen=True)
class PackedMatrix(_Quantized):
    """MatMulNBits': codes [N, blocks, bytes of a block], the first one lowest; scales of N x blocks; packed zero points."""

    shape: tuple[int, int]
    bits: int
    block: int

    def check(self, node: onnx.NodeProto) -> None:
        """UnsupportedQuantization, ShapeMismatch."""
        if self.bits not in _KINDS:
            raise UnsupportedQuantization(f"{named(node)}: bits must be 4 or 8, got {self.bits}; {_START_OVER}")
        if self.zeros is not None and self.file.kind(self.zeros) != TensorProto.UINT8:
            kind = TensorProto.DataType.Name(self.file.kind(self.zeros))
            raise UnsupportedQuantization(
                f"{named(node)} has zero points of type {kind}; only whole ones, packed in UINT8, are read; {_START_OVER}"
            )
        rows, blocks = self.shape[0], self._num_blocks
        sizes = {self.data: rows * blocks * self.block * self.bits // 8, self.scales: rows * blocks}
        if self.zeros is not None:
            sizes[self.zeros] = rows * self._zero_octets
        for name, size in sizes.items():
            if int(np.prod(self.file.shape(name))) != size:
                raise ShapeMismatch(
                    f"{self.file.where(name)} has shape {list(self.file.shape(name))}, but N {rows}, K {self.shape[1]}, bits "
                    f"{self.bits} and block_size {self.block} of {named(node)} make it {size} elements"
                )

    @property
    def _num_blocks(self) -> int:
        return -(-self.shape[1] // self.block)

    @property
    def _zero_octets(self) -> int:
        return -(-self._num_blocks * self.bits // 8)

    def stored(self) -> StoredMatrix:
        rows, columns = self.shape
        codes = self._unpacked(self.file.array(self.data).reshape(rows, -1))[:, :columns]
        scales = self._scales().reshape(rows, -1)
        zeros = None
        if self.zeros is not None:
            zeros = self._unpacked(self.file.array(self.zeros).reshape(rows, -1))[:, : self._num_blocks]
            zeros = np.ascontiguousarray(zeros)
        return StoredMatrix(_KINDS[self.bits], np.ascontiguousarray(codes), scales, 1, self.block, zeros)

    def _unpacked(self, octets: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """u8 [N, bytes] -> [N, codes]."""
        if self.bits == 8:
            return octets
        return np.stack((octets & np.uint8(15), octets >> np.uint8(4)), axis=-1).reshape(len(octets), -1)


def matrix_of(file: OnnxFile, value: str, transposed: bool) -> Matrix | None:
    """The matrix that the constant `value` is, `transposed` if it is [K, N]. None where it is no matrix.

    Raises UnsupportedGraph for an op between the weights and their use, and what `check` raises.
    """
    quantizer: onnx.NodeProto | None = None
    node = file.makers.get(value)
    while value not in file.initializers and node is not None:
        if node.op_type == "Transpose":
            if attributes(node).get("perm", [1, 0]) != [1, 0]:
                return None
            transposed = not transposed
        elif node.op_type == "DequantizeLinear" and quantizer is None:
            quantizer, was_transposed = node, transposed
        elif node.op_type not in ("Cast", "Identity"):
            if _comes_from_matrix(file, node):
                raise UnsupportedGraph(f"{named(node)} stands between weights and their use, where it cannot be imported")
            return None
        value = node.input[0]
        node = file.makers.get(value)
    if value not in file.initializers or len(file.shape(value)) != 2:
        return None
    if quantizer is None:
        if file.kind(value) not in FLOATS:
            kind = TensorProto.DataType.Name(file.kind(value))
            raise UnsupportedGraph(f"{file.where(value)} is a matrix of type {kind} that is used as it is; {_START_OVER}")
        return FloatMatrix(file, value, transposed)
    if transposed != was_transposed:
        raise UnsupportedGraph(f"{named(quantizer)} dequantizes a transposed matrix, which cannot be imported; {_START_OVER}")
    return dequantized(file, quantizer, [value, *quantizer.input[1:]], transposed)


def dequantized(file: OnnxFile, node: onnx.NodeProto, parts: list[str], transposed: bool) -> DequantizedMatrix:
    """Of a DequantizeLinear node whose inputs are, or are rows of, the initializers `parts`. Raises as `matrix_of`."""
    if not all(part in file.initializers for part in parts if part):
        raise UnsupportedGraph(f"{named(node)} must read stored codes, scales and zero points")
    stated = attributes(node)
    zeros = parts[2] if len(parts) > 2 and parts[2] else None
    axis = int(stated.get("axis", 1))
    rank = len(file.shape(parts[0]))
    axis = axis + rank if axis < 0 else axis
    if axis not in (0, 1):
        raise UnsupportedGraph(f"{named(node)}: axis must be 0 or 1 of a matrix, got {axis}")
    matrix = DequantizedMatrix(file, parts[0], parts[1], zeros, transposed, axis, int(stated.get("block_size", 0)))
    matrix.check(node)
    return matrix


def packed(file: OnnxFile, node: onnx.NodeProto) -> PackedMatrix:
    """Of a MatMulNBits node. Raises as `matrix_of`."""
    stated = attributes(node)
    if missing := [name for name in ("N", "K", "block_size") if stated.get(name, 0) < 1]:
        raise UnsupportedGraph(f"{named(node)} must have a positive {' and '.join(missing)}; export the model again")
    groups = node.input[4] if len(node.input) > 4 else ""
    if groups:
        raise UnsupportedQuantization(f"{named(node)} has g_idx, an order of its own of the columns; {_START_OVER}")
    given = [value for value in node.input[1:4] if value]
    if not all(value in file.initializers for value in given) or file.kind(given[0]) != TensorProto.UINT8:
        raise UnsupportedGraph(f"{named(node)} must read stored codes of type UINT8, scales and zero points")
    zeros = node.input[3] if len(node.input) > 3 and node.input[3] else None
    shape, bits, block = (stated["N"], stated["K"]), stated.get("bits", 4), stated["block_size"]
    matrix = PackedMatrix(file, given[0], given[1], zeros, shape, bits, block)
    matrix.check(node)
    return matrix


def _comes_from_matrix(file: OnnxFile, node: onnx.NodeProto) -> bool:
    return any(value in file.initializers and len(file.shape(value)) == 2 for value in node.input)


def _wide(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(extent for extent in shape if extent != 1)
