"""What a graph computes between its products, run on random numbers, against what the architecture computes there.

Each product of a stored matrix and the embedding's rows become inputs. What is left is norms, rotation, attention over the
cache, the activation and the residual stream: little to compute, whatever the size of the weights, and all that a config says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from artifacts.architecture import Architecture
from optimizer.importers.errors import GraphMismatch, UnsupportedGraph
from optimizer.importers.onnx_decoder.contrib_ops import CONTRIB_OPS
from optimizer.importers.onnx_decoder.expected import ExpectedNetwork, Probe, key_order
from optimizer.importers.onnx_decoder.gains import constant
from optimizer.importers.onnx_decoder.graph import FLOATS, OnnxFile, attributes
from optimizer.importers.onnx_decoder.linears import TOKENS
from optimizer.importers.onnx_decoder.roles import LOGITS, Decoder
from optimizer.importers.source import Source
from runtime.network import network
from runtime.rope import rope_tables

_NUM_TOKENS, _LEAST_PAST, _MOST_PAST = 4, 62, 8192
_SMALL = 3e-3
"""Magnitude of what norms read: near their eps, so that another eps is another result."""
_SCORES = 6.0
"""Magnitude of scores: caps are some 50, and change those of 1 too little to be seen."""
_TOLERANCE = 1e-4
_TOLERANCE_OF_HALVES = 4e-3
"""Relative to the largest magnitude, where tables and gains of the graph are of 16 bits."""
_TOLERANCE_OF_TABLES = 8e-3
"""Of cosines, which may be bf16."""


def check_plumbing(file: OnnxFile, decoder: Decoder, source: Source) -> None:
    """GraphMismatch where `file` computes anything but what `source` does, UnsupportedGraph for a node that is not known."""
    a = source.architecture
    _check_tables(file, a)
    probe = _probe(file, decoder, a)
    ours = ExpectedNetwork(source, decoder, probe)
    network(a, ours)
    keys = {layer: _present(file, layer) for layer in range(decoder.num_layers)}
    theirs = _run(file, decoder, probe, [*(linear.reads for linear in decoder.all), *keys.values(), LOGITS])
    halves = any(file.kind(name) in FLOATS[1:] for name in file.initializers)
    tolerance = _TOLERANCE_OF_HALVES if halves else _TOLERANCE

    def compare(what: str, expected: Tensor, found: NDArray[np.float32]) -> None:
        error = _relative_error(expected.numpy(), found.reshape(expected.shape) if found.size == expected.numel() else None)
        if not error <= tolerance:
            raise GraphMismatch(
                f"{file.path}: {what} of the graph is not what the config describes: they differ by {error:.1g} of the largest "
                f"magnitude, {tolerance:g} is allowed; the config is another model's, or the graph computes what is not served"
            )

    def compare_reads(group: str, factor: float = 1.0) -> None:
        for linear in decoder.groups[group]:
            compare(f"what {group} reads", ours.reads[group] * factor, theirs[linear.reads])

    for layer in range(decoder.num_layers):
        compare_reads(f"layers.{layer}.qkv")
        added = theirs[keys[layer]][:, :, probe.num_past :, key_order(a, layer)]
        compare(f"the key that layer {layer} adds", ours.keys[layer], added)
        for kind in ("o", "gate_up", "down"):
            compare_reads(f"layers.{layer}.{kind}")
    compare_reads("head", a.logit_divisor)
    compare("logits", ours.logits, theirs[LOGITS])


def _check_tables(file: OnnxFile, a: Architecture) -> None:
    """GraphMismatch where a stored table of cosines is not one of the architecture, up to a position that fp32 can tell."""
    ropes = [rope_tables(rope, a.head_dim, a.max_position)[0][:_MOST_PAST] for rope in (a.rope, *a.further_ropes)]
    places = {"GroupQueryAttention": 7, "RotaryEmbedding": 2}
    tables = {
        node.input[places[node.op_type]]
        for node in file.model.graph.node
        if node.domain == "com.microsoft" and node.op_type in places and len(node.input) > places[node.op_type]
    }
    for name in sorted(tables & file.constants):
        table = constant(file, name)
        rows = min(len(table), len(ropes[0]))
        if not any(np.abs(table[:rows] - cos[:rows, : table.shape[1]]).max() < _TOLERANCE_OF_TABLES for cos in ropes):
            raise GraphMismatch(
                f"{file.path}: the cosines {name} are of another rotation than the config's {a.rope.scaling} one of base "
                f"{a.rope.theta:g}; put the model's own config.json beside the graph"
            )


def _probe(file: OnnxFile, decoder: Decoder, a: Architecture) -> Probe:
    rng = np.random.default_rng(0)
    stated = [attributes(node).get("local_window_size", 0) for node in file.model.graph.node]
    num_past = min(max(_LEAST_PAST, *a.layer_windows, *stated) + 2, _MOST_PAST, a.max_position - _NUM_TOKENS)
    inputs = {entry.name for entry in file.model.graph.input}
    first = a.max_position - _NUM_TOKENS if "position_ids" in inputs else num_past

    def drawn(width: int, scale: float) -> NDArray[np.float32]:
        return (rng.standard_normal((_NUM_TOKENS, width)) * scale).astype(np.float32)

    products = {decoder.embed.makes: drawn(a.hidden_size, _SMALL)}
    for group, found in decoder.groups.items():
        for place, linear in enumerate(found):
            small = group.endswith((".o", ".down")) or (a.qk_norm and group.endswith(".qkv") and place < 2)
            products[linear.makes] = drawn(linear.matrix.shape[0], _SMALL if small else 1.0)
            if group.endswith(".qkv") and place == 0 and not a.qk_norm:
                products[linear.makes][:, : a.q_size] *= _SCORES / (a.head_dim**0.5 * a.score_scale)
    past = [rng.standard_normal((1, a.num_kv_heads, num_past, a.head_dim)).astype(np.float32) for _ in range(2)]
    return Probe(num_past, first + np.arange(_NUM_TOKENS), products, (past[0], past[1]))


def _present(file: OnnxFile, layer: int) -> str:
    names = {output.name for output in file.model.graph.output}
    return next(n for n in (f"present.{layer}.key", f"present_key_values.{layer}.key") if n in names)


def _run(file: OnnxFile, decoder: Decoder, probe: Probe, wanted: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """The values `wanted` of `file`, computed in fp32 whatever type it computes in."""
    given = {name: probe.products[name] for name in wanted if name in probe.products}
    wanted = [name for name in dict.fromkeys(wanted) if name not in given]
    nodes = file.upstream(wanted, probe.products)
    read = {value for node in nodes for value in node.input} | set(wanted)
    flat = {linear.makes for linear in decoder.all if linear.node.op_type == "Gemm"}
    products = {name: v if name in flat else v[None] for name, v in probe.products.items() if name in read}
    feeds = _feeds(file, read, probe) | products
    stored = [_widened(file, name) for name in sorted(read) if name in file.initializers and name not in feeds]
    graph = onnx.helper.make_graph(
        [_in_fp32(node) for node in nodes],
        "plumbing",
        [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in feeds.items()
        ],
        [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted],
        stored,
    )
    opsets = {entry.domain: entry.version for entry in file.model.opset_import} | {"com.microsoft": 1}
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=imports)
    try:
        results = ReferenceEvaluator(model, new_ops=CONTRIB_OPS).run(None, feeds)
    except UnsupportedGraph:
        raise
    except Exception as error:  # onnx raises what it finds
        reason = " ".join(str(error).split())[:300]
        raise UnsupportedGraph(
            f"{file.path} cannot be run on {_NUM_TOKENS} tokens: {reason}; export the model again"
        ) from error
    return given | {name: np.asarray(v, np.float32) for name, v in zip(wanted, results, strict=True)}


def _feeds(file: OnnxFile, read: set[str], probe: Probe) -> dict[str, NDArray[Any]]:
    """The graph's own inputs."""
    feeds: dict[str, NDArray[Any]] = {}
    for entry in file.model.graph.input:
        name, integer = entry.name, np.int32 if entry.type.tensor_type.elem_type == TensorProto.INT32 else np.int64
        if name not in read or name in file.initializers:
            continue
        if name == TOKENS:
            feeds[name] = np.zeros((1, _NUM_TOKENS), integer)
        elif name == "attention_mask":
            feeds[name] = np.ones((1, probe.num_past + _NUM_TOKENS), integer)
        elif name == "position_ids":
            feeds[name] = probe.positions[None].astype(integer)
        elif name.startswith("past_key_values.") and name.endswith((".key", ".value")):
            feeds[name] = probe.past[name.endswith(".value")]
        else:
            raise UnsupportedGraph(
                f"{file.path}: input {name!r} must be {TOKENS}, attention_mask, position_ids or one of past_key_values"
            )
    return feeds


def _widened(file: OnnxFile, name: str) -> TensorProto:
    array = file.floats(name) if file.kind(name) in FLOATS else file.array(name)
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(file.shape(name)), name)


def _in_fp32(node: onnx.NodeProto) -> onnx.NodeProto:
    """`node` with fp32 where it names a type of 16 bits, and a name for each output: onnx takes "" for one."""
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    copied.output[:] = [output or f"{node.output[0]} {index}" for index, output in enumerate(node.output)]
    for attribute in copied.attribute:
        if attribute.name in ("to", "dtype") and attribute.i in FLOATS[1:]:
            attribute.i = TensorProto.FLOAT
        elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type in FLOATS[1:]:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
    return copied


def _relative_error(expected: NDArray[np.float32], found: NDArray[np.float32] | None) -> float:
    """NaN where shapes differ."""
    if found is None:
        return float("nan")
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))
