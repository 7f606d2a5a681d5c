"""A QDQ graph of the decoder with its KV cache as inputs and outputs, under the names that Optimum and onnxruntime-genai use.

    input_ids, position_ids i64 [batch, sequence]; attention_mask i64 [batch, past + sequence], 0 for padding
    past_key_values.I.key, .value f32 [batch, num_kv_heads, past, head_dim] -> present.I.key, .value
    logits f32 [batch, sequence, vocab_size]

Weights are dequantized where they are used, in fp32; the rest is computed in fp32.
"""

from __future__ import annotations

import json
from pathlib import Path

from onnx import TensorProto

from artifacts.architecture import Architecture
from artifacts.layer_parts import Rope
from optimizer.exporters.errors import ExportError
from optimizer.exporters.hf_config import hf_config
from optimizer.exporters.logical import LogicalBundle
from optimizer.exporters.onnx_graph import OnnxGraph, Value
from optimizer.exporters.onnx_matrices import Table, linear
from optimizer.exporters.record import RECORD_NAME, ExportRecord
from optimizer.exporters.tokenizer_files import write_tokenizer_files
from optimizer.formats.table import CODECS
from runtime.network import Activation, network
from runtime.rope import rope_tables


def export_onnx(logical: LogicalBundle, folder: Path) -> ExportRecord:
    """Write model.onnx, model.onnx.data, config.json and the tokenizer's files into the empty `folder`. Raises ExportError."""
    logical.require_dense("onnx")
    schemes = {logical.scheme(group) for group in logical.architecture.linear_shapes()}
    if unknown := {scheme.weights for scheme in schemes if not CODECS[scheme.weights].onnx}:
        raise ExportError(
            f"{', '.join(sorted(unknown))} layers are codes of small floats, by which no runtime of ONNX multiplies on a CPU; "
            "export as compressed-tensors"
        )
    record = ExportRecord(logical.manifest, "onnx")
    kv_dtype = logical.manifest.precision.kv_cache
    if kv_dtype != "fp32":
        record.note(f"KV cache: fp32 in the graph, {kv_dtype} in the bundle")
    if any(scheme.group_size for scheme in schemes):
        record.note(
            "activations: onnxruntime rounds what meets an int4 matrix to int8 unless its option "
            "session.qdq_matmulnbits_accuracy_level is 1"
        )
    with OnnxGraph(folder) as graph:
        network(logical.architecture, _OnnxBuilder(graph, logical))
        graph.save(logical.manifest.name)
    write_tokenizer_files(logical, folder)
    try:
        config = hf_config(logical.architecture, logical.generation_config)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    except ExportError as error:
        record.note(f"config.json: none, so that nothing imports the graph again: {error}")
    (folder / RECORD_NAME).write_text(record.json() + "\n")
    return record


class _OnnxBuilder:
    """Adds the nodes of a network to a graph; values are [batch, sequence, width]."""

    latents, mixtures, extras = None, None, None

    def __init__(self, graph: OnnxGraph, logical: LogicalBundle) -> None:
        self.graph, self.logical = graph, logical
        self.a: Architecture = logical.architecture
        self.ids = graph.input("input_ids", TensorProto.INT64, "batch", "sequence")
        attention_mask = graph.input("attention_mask", TensorProto.INT64, "batch", "total")
        self.positions = graph.input("position_ids", TensorProto.INT64, "batch", "sequence")
        self.tables = [
            self._rotation(rope, f"rope{index or ''}") for index, rope in enumerate((self.a.rope, *self.a.further_ropes))
        ]
        self.masks = self._masks(attention_mask)
        self.table = Table(graph, logical.matrix("embed"))

    def embed(self) -> Value:
        return self.table.rows(self.ids)

    def norm(self, name: str, stream: Value, readers: tuple[str, ...], eps: float) -> Value:
        gain = self.graph.weight(f"{name}.weight", self.logical.bundle.tensors[f"{name}.weight"])
        return self.graph.op("RMSNormalization", stream, gain, axis=-1, epsilon=eps)

    norm_in_place = norm

    def read(self, stream: Value) -> Value:
        return stream

    def linear(self, group: str, x: Value) -> Value:
        product = linear(self.graph, group, x, self.logical.matrix(group))
        bias = self.logical.bundle.tensors.get(f"{group}.bias")
        return product if bias is None else self.graph.op("Add", product, self.graph.weight(f"{group}.bias", bias))

    def split(self, qkv: Value, sizes: tuple[int, ...]) -> tuple[Value, ...]:
        outs = tuple(f"{qkv}.{part}" for part in "qkv")
        return tuple(self.graph.ops("Split", qkv, self.graph.constant(list(sizes)), outs=outs, axis=-1))

    def heads(self, x: Value, head_dim: int) -> Value:
        """[batch, sequence, heads, head_dim]."""
        return self.graph.op("Reshape", x, self.graph.constant([0, 0, -1, head_dim]))

    def attend(
        self, layer: int, q: Value, k: Value | None, v: Value | None, scale: float, window: int, softcap: float
    ) -> Value:
        graph, a = self.graph, self.a
        assert k is not None and v is not None, "layers that differ are refused"
        q, k, v = (graph.op("Transpose", heads, perm=[0, 2, 1, 3]) for heads in (q, k, v))
        tables = self.tables[a.layer_ropes[layer] if a.layer_ropes else 0]
        q, k = (graph.op("RotaryEmbedding", heads, *tables, self.positions) for heads in (q, k))
        past, present = (
            tuple(f"{which}.{layer}.{part}" for part in ("key", "value")) for which in ("past_key_values", "present")
        )
        for value, lengths in ((past, "past"), (present, "total")):
            declare = graph.input if value is past else graph.output
            for part in value:
                declare(part, TensorProto.FLOAT, "batch", a.num_kv_heads, lengths, a.head_dim)
        outs = (f"layers.{layer}.attended", *present)
        attended, _, _ = graph.ops("Attention", q, k, v, self.masks[window], *past, outs=outs, scale=scale, softcap=softcap)
        return graph.op("Reshape", graph.op("Transpose", attended, perm=[0, 2, 1, 3]), graph.constant([0, 0, a.q_size]))

    def gated(self, name: str, gate_up: Value, reader: str, activation: Activation) -> Value:
        graph = self.graph
        gate, up = graph.ops("Split", gate_up, outs=(f"{name}.gate", f"{name}.up"), axis=-1, num_outputs=2)
        assert activation.name != "clamped_silu", "an activation of experts, which are refused"
        if activation.name == "gelu":
            return graph.op("Mul", graph.op("Gelu", gate, approximate="tanh"), up)
        return graph.op("Mul", graph.op("Mul", gate, graph.op("Sigmoid", gate)), up)

    def join(self, stream: Value, branch: Value, factor: float) -> Value:
        graph = self.graph
        scaled = branch if factor == 1.0 else graph.op("Mul", branch, graph.constant(factor, "float32"))
        return graph.op("Add", stream, scaled)

    def gather(self, x: Value) -> Value:
        """Logits are of all tokens."""
        return x

    def head(self, group: str, x: Value, softcap: float) -> None:
        graph = self.graph
        logits = self.table.head(x) if group == "embed" else self.linear(group, x)
        if softcap:
            cap = graph.constant(softcap, "float32")
            logits = graph.op("Mul", graph.op("Tanh", graph.op("Div", logits, cap)), cap)
        graph.output("logits", TensorProto.FLOAT, "batch", "sequence", self.a.vocab_size)
        graph.op("Identity", logits, out="logits")

    def _rotation(self, rope: Rope, name: str) -> tuple[Value, Value]:
        """Cosines and sines of all positions; under longrope of those that the bundle serves, which decide its factors."""
        served = self.logical.manifest.serving.max_model_len
        cos, sin = rope_tables(rope, self.a.head_dim, served if rope.scaling == "longrope" else self.a.max_position)
        return self.graph.weight(f"{name}.cos", cos), self.graph.weight(f"{name}.sin", sin)

    def _masks(self, attention_mask: Value) -> dict[int, Value]:
        """For each window, whether a query sees a key: bool [batch, 1, sequence, total]. A padded query sees itself alone."""
        graph = self.graph
        one, zero = graph.constant(1), graph.constant(0)

        def length(of: Value) -> Value:
            return graph.op("Squeeze", graph.op("Shape", of, start=1, end=2))

        total = length(attention_mask)
        queries = graph.op("Range", graph.op("Sub", total, length(self.ids)), total, one)
        keys = graph.op("Range", zero, total, one)
        distance = graph.op("Sub", graph.op("Unsqueeze", queries, graph.constant([1])), keys)
        given = graph.op("Unsqueeze", graph.op("Cast", attention_mask, to=TensorProto.BOOL), graph.constant([1, 2]))
        given = graph.op("Or", given, graph.op("Equal", distance, zero))
        causal = graph.op("And", given, graph.op("GreaterOrEqual", distance, zero))
        windows = {self.a.window(layer) for layer in range(self.a.num_layers)}
        return {
            window: graph.op("And", causal, graph.op("Less", distance, graph.constant(window))) if window else causal
            for window in sorted(windows)
        }
