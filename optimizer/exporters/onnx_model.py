"""A QDQ graph of the decoder with its KV cache as inputs and outputs, under the names that Optimum and onnxruntime-genai use.

    input_ids, position_ids i64 [batch, sequence]; attention_mask i64 [batch, past + sequence], 0 for padding
    past_key_values.I.key, .value f32 [batch, num_kv_heads, past, head_dim] -> present.I.key, .value
    logits f32 [batch, sequence, vocab_size]

Weights are dequantized where they are used, in fp32; the rest is computed in fp32.
"""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto

from artifacts.architecture import Architecture
from kernels.formats.table import FORMATS
from optimizer.exporters.errors import ExportError
from optimizer.exporters.logical import LogicalBundle
from optimizer.exporters.onnx_graph import OnnxGraph, Value
from optimizer.exporters.onnx_matrices import Table, linear
from optimizer.exporters.record import RECORD_NAME, ExportRecord
from optimizer.exporters.tokenizer_files import write_tokenizer_files
from runtime.rope import rope_tables


def export_onnx(logical: LogicalBundle, folder: Path) -> ExportRecord:
    """Write model.onnx, model.onnx.data and the tokenizer's files into the empty `folder`. Raises ExportError."""
    schemes = {logical.scheme(group) for group in logical.architecture.linear_shapes()}
    if gpu_only := {scheme.weights for scheme in schemes if not FORMATS[scheme.weights].cpu}:
        raise ExportError(
            f"{', '.join(sorted(gpu_only))} layers run on GPUs alone, and an ONNX graph of them would not; export as "
            "compressed-tensors"
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
        _Decoder(graph, logical).build()
        graph.save(logical.manifest.name)
    write_tokenizer_files(logical, folder)
    (folder / RECORD_NAME).write_text(record.json() + "\n")
    return record


class _Decoder:
    def __init__(self, graph: OnnxGraph, logical: LogicalBundle) -> None:
        self.graph, self.logical = graph, logical
        self.a: Architecture = logical.architecture

    def build(self) -> None:
        graph, a = self.graph, self.a
        ids = graph.input("input_ids", TensorProto.INT64, "batch", "sequence")
        attention_mask = graph.input("attention_mask", TensorProto.INT64, "batch", "total")
        self.positions = graph.input("position_ids", TensorProto.INT64, "batch", "sequence")
        cos, sin = rope_tables(a.rope, a.head_dim, a.max_position)
        self.tables = graph.weight("rope.cos", cos), graph.weight("rope.sin", sin)
        self.masks = self._masks(ids, attention_mask)

        embedding = Table(graph, self.logical.matrix("embed"))
        residual = embedding.rows(ids)
        for layer in range(a.num_layers):
            residual = graph.op("Add", residual, self._attention(layer, self._norm(f"layers.{layer}.attn_norm", residual)))
            residual = graph.op("Add", residual, self._mlp(f"layers.{layer}", self._norm(f"layers.{layer}.mlp_norm", residual)))
        hidden = self._norm("final_norm", residual)
        graph.output("logits", TensorProto.FLOAT, "batch", "sequence", a.vocab_size)
        if a.tie_embeddings:
            embedding.head(hidden)
        else:
            graph.op("Identity", self._linear("head", hidden), out="logits")

    def _masks(self, ids: Value, attention_mask: Value) -> dict[int, Value]:
        """For each window, whether a query sees a key: bool [batch, 1, sequence, total]. A padded query sees itself alone."""
        graph = self.graph
        one, zero = graph.constant(1), graph.constant(0)

        def length(of: Value) -> Value:
            return graph.op("Squeeze", graph.op("Shape", of, start=1, end=2))

        total = length(attention_mask)
        queries = graph.op("Range", graph.op("Sub", total, length(ids)), total, one)
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

    def _attention(self, layer: int, hidden: Value) -> Value:
        graph, a = self.graph, self.a
        name = f"layers.{layer}"
        outs = tuple(f"{name}.{part}" for part in "qkv")
        sizes = graph.constant([a.q_size, a.kv_size, a.kv_size])
        q, k, v = graph.ops("Split", self._linear(f"{name}.qkv", hidden), sizes, outs=outs, axis=-1)
        past, present = (
            tuple(f"{which}.{layer}.{part}" for part in ("key", "value")) for which in ("past_key_values", "present")
        )
        for value, lengths in ((past, "past"), (present, "total")):
            declare = graph.input if value is past else graph.output
            for part in value:
                declare(part, TensorProto.FLOAT, "batch", a.num_kv_heads, lengths, a.head_dim)
        attended, _, _ = graph.ops(
            "Attention",
            self._rotated(f"{name}.q_norm", q),
            self._rotated(f"{name}.k_norm", k),
            self._by_head(v),
            self.masks[a.window(layer)],
            *past,
            outs=(f"{name}.attended", *present),
            scale=a.head_dim**-0.5,
        )
        joined = graph.op("Reshape", graph.op("Transpose", attended, perm=[0, 2, 1, 3]), graph.constant([0, 0, a.q_size]))
        return self._linear(f"{name}.o", joined)

    def _by_head(self, x: Value, norm: str | None = None) -> Value:
        """[batch, sequence, heads head_dim] -> [batch, heads, sequence, head_dim], each head normalized by `norm`."""
        heads = self.graph.op("Reshape", x, self.graph.constant([0, 0, -1, self.a.head_dim]))
        if norm is not None:
            heads = self._norm(norm, heads)
        return self.graph.op("Transpose", heads, perm=[0, 2, 1, 3])

    def _rotated(self, norm: str, x: Value) -> Value:
        heads = self._by_head(x, norm if self.a.qk_norm else None)
        return self.graph.op("RotaryEmbedding", heads, *self.tables, self.positions)

    def _mlp(self, name: str, hidden: Value) -> Value:
        graph = self.graph
        outs = f"{name}.gate", f"{name}.up"
        gate, up = graph.ops("Split", self._linear(f"{name}.gate_up", hidden), outs=outs, axis=-1, num_outputs=2)
        activated = graph.op("Mul", graph.op("Mul", gate, graph.op("Sigmoid", gate)), up)
        return self._linear(f"{name}.down", activated)

    def _norm(self, name: str, x: Value) -> Value:
        gain = self.graph.weight(f"{name}.weight", self.logical.bundle.tensors[f"{name}.weight"])
        return self.graph.op("RMSNormalization", x, gain, axis=-1, epsilon=self.a.rms_norm_eps)

    def _linear(self, group: str, x: Value) -> Value:
        product = linear(self.graph, group, x, self.logical.matrix(group))
        bias = self.logical.bundle.tensors.get(f"{group}.bias")
        return product if bias is None else self.graph.op("Add", product, self.graph.weight(f"{group}.bias", bias))
