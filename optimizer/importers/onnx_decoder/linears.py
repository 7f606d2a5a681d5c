"""The products of a graph with stored matrices, and the rows of the embedding that tokens look up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from optimizer.importers.errors import UnsupportedGraph
from optimizer.importers.onnx_decoder.contrib_ops import CONTRIB_OPS
from optimizer.importers.onnx_decoder.graph import PASSING, OnnxFile, attributes, named
from optimizer.importers.onnx_decoder.matrices import Matrix, PackedMatrix, dequantized, matrix_of, packed

TOKENS = "input_ids"
_OF_CODES = {("com.microsoft", "MatMulNBits"), ("com.microsoft", "GatherBlockQuantized")}


@dataclass(frozen=True)
class Linear:
    """One x W^T + bias: the value that it reads, the one that it makes behind its bias, and the constant that is the bias."""

    node: onnx.NodeProto
    matrix: Matrix
    reads: str
    makes: str
    bias: str | None
    rounds: bool
    """Whether the graph rounds what it reads to integers."""


@dataclass(frozen=True)
class Lookup:
    matrix: Matrix
    makes: str


def check_ops(file: OnnxFile) -> None:
    """UnsupportedGraph for a node that is no operator of ONNX, and none of onnxruntime's that are known here."""
    ours = {(op.op_domain, op.__name__) for op in CONTRIB_OPS} | _OF_CODES
    for node in file.model.graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (domain, node.op_type) not in ours and (domain or not onnx.defs.has(node.op_type)):
            of = f" of {domain}" if domain else ""
            raise UnsupportedGraph(f"{named(node)}{of} is not known here; export the model without it")


def linears(file: OnnxFile) -> Iterator[Linear]:
    """In the graph's order. Raises UnsupportedGraph, UnsupportedQuantization, ShapeMismatch."""
    for node in file.model.graph.node:
        if not node.input or node.input[0] in file.constants:
            continue
        bias = None
        if node.op_type == "MatMul" and node.input[1] in file.constants:
            matrix = matrix_of(file, node.input[1], transposed=True)
        elif node.op_type == "Gemm" and node.input[1] in file.constants:
            matrix, bias = _gemm(file, node)
        elif node.op_type == "MatMulNBits":
            matrix = packed(file, node)
            bias = node.input[5] if len(node.input) > 5 and node.input[5] else None
        else:
            continue
        if matrix is None:
            continue
        makes = node.output[0]
        if bias is None:
            makes, bias = _biased(file, makes, matrix.shape[0])
        reads, rounds = _before_rounding(file, node.input[0])
        yield Linear(node, matrix, reads, makes, bias, rounds)


def lookup(file: OnnxFile) -> Lookup:
    """The embedding: the rows of one matrix that `input_ids` choose. UnsupportedGraph where there is not one such."""
    found = [node for node in _readers_of_tokens(file) if _is_lookup(file, node)]
    if len(found) == 1:
        (node,) = found
        if node.op_type == "GatherBlockQuantized":
            return Lookup(_packed_rows(file, node), node.output[0])
        matrix = matrix_of(file, node.input[0], transposed=False)
        if matrix is not None:
            return Lookup(matrix, node.output[0])
    rows = {node.output[0]: node.input[0] for node in found}
    ends = {reader.name: reader for row in rows for reader in file.readers[row] if reader.op_type == "DequantizeLinear"}
    if len(ends) == 1:
        (end,) = ends.values()
        if all(value in rows for value in end.input):
            stated = attributes(end)
            axis = stated.get("axis", 1)
            flat = onnx.helper.make_node(
                "DequantizeLinear", list(end.input), list(end.output), end.name,
                axis=axis if axis < 0 else axis - 1, block_size=stated.get("block_size", 0),
            )  # fmt: skip
            return Lookup(dequantized(file, flat, [rows[value] for value in end.input], transposed=False), end.output[0])
    raise UnsupportedGraph(
        f"{file.path}: {TOKENS} must choose rows of one matrix, by Gather or GatherBlockQuantized, got {len(found)} such nodes"
    )


def _readers_of_tokens(file: OnnxFile) -> list[onnx.NodeProto]:
    found, values = [], [TOKENS]
    while values:
        for node in file.readers[values.pop()]:
            if node.op_type in PASSING:
                values.extend(node.output)
            else:
                found.append(node)
    return found


def _is_lookup(file: OnnxFile, node: onnx.NodeProto) -> bool:
    if node.op_type == "GatherBlockQuantized":
        return True
    return node.op_type == "Gather" and node.input[0] in file.constants and attributes(node).get("axis", 0) == 0


def _packed_rows(file: OnnxFile, node: onnx.NodeProto) -> Matrix:
    """Of GatherBlockQuantized: rows in blocks along the columns."""
    stated = attributes(node)
    data, scales = node.input[0], node.input[2]
    while data in file.makers and file.makers[data].op_type in ("Reshape", *PASSING):
        data = file.makers[data].input[0]  # a head's codes, flattened
    if stated.get("gather_axis", 0) != 0 or stated.get("quantize_axis", 1) not in (1, -1) or data not in file.initializers:
        raise UnsupportedGraph(f"{named(node)} must choose rows of stored codes in blocks of columns")
    bits, block = stated.get("bits", 4), stated.get("block_size", 128)
    zeros = node.input[3] if len(node.input) > 3 and node.input[3] else None
    if file.kind(data) != onnx.TensorProto.UINT8:
        flat = onnx.helper.make_node("DequantizeLinear", [data], list(node.output), node.name, axis=1, block_size=block)
        return dequantized(file, flat, [data, scales, *([zeros] if zeros else [])], transposed=False)
    rows, *rest = file.shape(data)
    octets = 1
    for extent in rest:
        octets *= extent
    matrix = PackedMatrix(file, data, scales, zeros, (rows, octets * 8 // bits), bits, block)
    matrix.check(node)
    return matrix


def _gemm(file: OnnxFile, node: onnx.NodeProto) -> tuple[Matrix | None, str | None]:
    stated = attributes(node)
    if stated.get("transA", 0) or stated.get("alpha", 1.0) != 1.0 or stated.get("beta", 1.0) != 1.0:
        raise UnsupportedGraph(f"{named(node)} must have transA 0, alpha 1 and beta 1")
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    return matrix_of(file, node.input[1], transposed=not stated.get("transB", 0)), bias


def _biased(file: OnnxFile, product: str, size: int) -> tuple[str, str | None]:
    """The sum of `product` and a constant of `size`, where that is its one use, and the constant."""
    readers = file.readers[product]
    if len(readers) == 1 and readers[0].op_type == "Add":
        (other,) = [value for value in readers[0].input if value != product] or [product]
        if other in file.constants and (other not in file.initializers or file.shape(other) == (size,)):
            return readers[0].output[0], other
    return product, None


def _before_rounding(file: OnnxFile, value: str) -> tuple[str, bool]:
    """`value` as it was before it was rounded to integers, and whether it was."""
    end = file.makers.get(value)
    begin = file.makers.get(end.input[0]) if end is not None and end.op_type == "DequantizeLinear" else None
    if begin is None or begin.op_type != "QuantizeLinear":
        return value, False
    return begin.input[0], True
