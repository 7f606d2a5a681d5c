"""Where a graph's norms have their gains: the constant that multiplies last before a product reads, or first behind one."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from optimizer.importers.onnx_decoder.graph import PASSING, OnnxFile
from optimizer.importers.onnx_decoder.linears import Linear
from optimizer.importers.onnx_decoder.roles import Decoder

#: whole norms: op -> the input that is the gain
_NORMS = {"SimplifiedLayerNormalization": 1, "RMSNormalization": 1, "SkipSimplifiedLayerNormalization": 2}
#: what a value passes on the way to its norm behind a product
_ENDS = ("MatMul", "Gemm", "MatMulNBits", "Softmax", "GroupQueryAttention", "Attention", "RotaryEmbedding")


def find_gains(file: OnnxFile, decoder: Decoder) -> dict[str, str]:
    """Canonical name without `.weight` -> the constant. What a model lacks is not there."""
    found: dict[str, str | None] = {"final_norm": _before(file, decoder.groups["head"][0].reads)}
    for layer in range(decoder.num_layers):
        name, groups = f"layers.{layer}", decoder.groups
        found[f"{name}.attn_norm"] = _before(file, groups[f"{name}.qkv"][0].reads)
        found[f"{name}.mlp_norm"] = _before(file, groups[f"{name}.gate_up"][0].reads)
        found[f"{name}.attn_post_norm"] = _behind(file, groups[f"{name}.o"][0].makes)
        found[f"{name}.mlp_post_norm"] = _behind(file, groups[f"{name}.down"][0].makes)
        q, k = _queries_and_keys(file, groups[f"{name}.qkv"])
        found[f"{name}.q_norm"], found[f"{name}.k_norm"] = _behind(file, q), _behind(file, k)
    return {name: gain for name, gain in found.items() if gain is not None}


def constant(file: OnnxFile, value: str) -> NDArray[np.float32]:
    """A constant, computed where it is not stored, fp32."""
    if value in file.initializers:
        return file.floats(value)
    nodes = file.upstream([value], frozenset())
    stored = [onnx.numpy_helper.from_array(file.floats(n), n) for node in nodes for n in node.input if n in file.initializers]
    output = onnx.helper.make_tensor_value_info(value, onnx.TensorProto.UNDEFINED, None)
    graph = onnx.helper.make_graph(nodes, "constant", [], [output], stored)
    model = onnx.helper.make_model(graph, opset_imports=file.model.opset_import)
    (found,) = ReferenceEvaluator(model).run(None, {})
    return np.asarray(found).astype(np.float32)


def _gain_of(file: OnnxFile, node: onnx.NodeProto) -> str | None:
    if node.op_type in _NORMS:
        return str(node.input[_NORMS[node.op_type]])
    if node.op_type == "Mul":
        for value in node.input:
            if value in file.constants and not _is_scalar(file, value):
                return str(value)
    return None


def _is_scalar(file: OnnxFile, value: str) -> bool:
    """A gain that is computed is one of a vector."""
    return value in file.initializers and int(np.prod(file.shape(value))) == 1


def _before(file: OnnxFile, value: str) -> str | None:
    node = file.makers.get(value)
    while node is not None and node.op_type in (*PASSING, "Reshape"):
        node = file.makers.get(node.input[0])
    return None if node is None else _gain_of(file, node)


def _behind(file: OnnxFile, value: str) -> str | None:
    """The first gain downstream, before what flows there is joined with anything else."""
    values, seen = [value], {value}
    while values:
        value = values.pop(0)
        for node in file.readers[value]:
            if node.op_type == "SkipSimplifiedLayerNormalization" or node.op_type in _ENDS:
                continue
            if (gain := _gain_of(file, node)) is not None:
                return gain
            if node.op_type == "Add" and not any(other in file.constants for other in node.input):
                continue
            further = [output for output in node.output if output and output not in seen]
            values += further
            seen.update(further)
    return None


def _queries_and_keys(file: OnnxFile, joined: tuple[Linear, ...]) -> tuple[str, str]:
    """Where the values of either begin."""
    if len(joined) == 3:
        return joined[0].makes, joined[1].makes
    for node in file.readers[joined[0].makes]:
        if node.op_type == "Split" and len(node.output) == 3:
            return node.output[0], node.output[1]
    return joined[0].makes, joined[0].makes
