"""ONNX files that are damaged, contradict their config or compute something else: one typed error each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from transformers import LlamaConfig

from optimizer.importers import (
    DamagedFile,
    GraphMismatch,
    MissingFile,
    ShapeMismatch,
    SourceError,
    UnexpectedTensor,
    UnsupportedGraph,
    UnsupportedQuantization,
    open_source,
)
from tests.importers.onnx_writing import Built
from tests.importers.random_models import SIZES, random_model

Change = Callable[[onnx.GraphProto], None]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    model = random_model(LlamaConfig(**SIZES))
    Built(model).write(folder / "floats")
    Built(model, 32, asymmetric=True).write(folder / "int4")
    return folder


def refused(folder: Path, kind: type[SourceError], message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        open_source(folder)
    assert type(caught.value) is kind and "\n" not in str(caught.value)


def copied(folder: Path, to: Path, change: Change = lambda graph: None) -> Path:
    shutil.copytree(folder, to)
    model = onnx.load(to / "model.onnx", load_external_data=False)
    change(model.graph)
    onnx.save(model, to / "model.onnx")
    return to


def node(graph: onnx.GraphProto, kind: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.op_type == kind)


def stated(kind: str, name: str, value: object) -> Change:
    """The first node of `kind` with another value of an attribute."""

    def change(graph: onnx.GraphProto) -> None:
        found = node(graph, kind)
        kept = [attribute for attribute in found.attribute if attribute.name != name]
        del found.attribute[:]
        found.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def test_a_graph_cut_short(written: Path, tmp_path: Path) -> None:
    path = copied(written / "floats", tmp_path / "copy") / "model.onnx"
    path.write_bytes(path.read_bytes()[:-2000])
    refused(path, DamagedFile, "truncated or not ONNX")


def test_weights_that_are_not_there_or_cut_short(written: Path, tmp_path: Path) -> None:
    data = copied(written / "floats", tmp_path / "copy") / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-8])
    refused(data.parent, DamagedFile, "model.onnx.data is truncated: .* ends at byte")
    data.unlink()
    refused(data.parent, MissingFile, "model.onnx.data is not there; .* has its data in it")


def test_weights_in_a_file_elsewhere(written: Path, tmp_path: Path) -> None:
    def change(graph: onnx.GraphProto) -> None:
        tensor = next(tensor for tensor in graph.initializer if tensor.external_data)
        tensor.external_data[0].value = "../floats/model.onnx.data"

    refused(copied(written / "floats", tmp_path / "copy", change), DamagedFile, "must lie in a file beside the graph")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (stated("MatMulNBits", "bits", 2), UnsupportedQuantization, r"node 'MatMulNBits_\d+': bits must be 4 or 8, got 2"),
        (stated("MatMulNBits", "block_size", 16), ShapeMismatch, "q_proj.*scales.* has shape .* block_size 16 .* make it"),
        (stated("MatMulNBits", "N", 0), UnsupportedGraph, "must have a positive N"),
        (stated("MatMulNBits", "K", 64), ShapeMismatch, "has shape .* K 64"),
        (lambda graph: node(graph, "MatMulNBits").input.append("axis"), UnsupportedQuantization, "has g_idx"),
    ],
    ids=["bits", "block_size", "N", "K", "g_idx"],
)  # fmt: skip
def test_int4_that_cannot_be(written: Path, tmp_path: Path, change: Change, kind: type[SourceError], message: str) -> None:
    refused(copied(written / "int4", tmp_path / "copy", change), kind, message)


def test_zero_points_that_are_no_integers(written: Path, tmp_path: Path) -> None:
    def change(graph: onnx.GraphProto) -> None:
        graph.initializer.append(numpy_helper.from_array(np.full(64, 7.5, np.float32), "zeros"))
        node(graph, "MatMulNBits").input[3] = "zeros"

    refused(copied(written / "int4", tmp_path / "copy", change), UnsupportedQuantization, "zero points of type FLOAT")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (stated("GroupQueryAttention", "scale", 0.3), GraphMismatch, "what layers.0.o reads of the graph"),
        (stated("GroupQueryAttention", "softcap", 50.0), GraphMismatch, "what layers.0.o reads of the graph"),
        (stated("GroupQueryAttention", "rotary_interleaved", 1), GraphMismatch, "the key that layer 0 adds"),
        (stated("SkipSimplifiedLayerNormalization", "epsilon", 1e-5), UnsupportedGraph, "with one epsilon"),
        (lambda graph: setattr(node(graph, "Sigmoid"), "op_type", "Tanh"), GraphMismatch, "what layers.0.down reads"),
        (lambda graph: setattr(node(graph, "Sigmoid"), "op_type", "Wavelet"), UnsupportedGraph, "Wavelet node .* is not known"),
        (lambda graph: setattr(node(graph, "MatMul"), "domain", "com.acme"), UnsupportedGraph, "MatMul node .* of com.acme"),
    ],
    ids=["scale", "cap", "rotation", "eps", "activation", "unknown", "domain"],
)  # fmt: skip
def test_a_graph_that_computes_something_else(
    written: Path, tmp_path: Path, change: Change, kind: type[SourceError], message: str
) -> None:
    refused(copied(written / "floats", tmp_path / "copy", change), kind, message)


def test_a_window_that_the_config_lacks(written: Path, tmp_path: Path) -> None:
    folder = copied(written / "floats", tmp_path / "copy", stated("GroupQueryAttention", "local_window_size", 90))
    (folder / "config.json").write_text(json.dumps(LlamaConfig(**SIZES).to_dict()))
    refused(folder, GraphMismatch, "what layers.0.o reads of the graph")


def last_reader(graph: onnx.GraphProto, value: str) -> onnx.NodeProto:
    return [node for node in graph.node if value in node.input][-1]


@pytest.mark.parametrize("kind", ["SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_a_product_more(written: Path, tmp_path: Path, kind: str) -> None:
    """An adapter beside a projection, say."""

    def change(graph: onnx.GraphProto) -> None:
        graph.initializer.append(numpy_helper.from_array(np.eye(32, dtype=np.float32), "more"))
        beside = node(graph, kind)
        product = helper.make_node("MatMul", [beside.output[0], "more"], ["x"], "extra")
        graph.node.insert(list(graph.node).index(last_reader(graph, beside.output[0])) + 1, product)

    refused(
        copied(written / "floats", tmp_path / "copy", change), UnsupportedGraph, "MatMul node 'extra' has no place in a decoder"
    )


def test_a_graph_without_a_cache(written: Path, tmp_path: Path) -> None:
    def change(graph: onnx.GraphProto) -> None:
        del graph.output[1:]

    refused(copied(written / "floats", tmp_path / "copy", change), UnsupportedGraph, "must be a decoder with its KV cache")


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"num_hidden_layers": 2}, GraphMismatch, "caches of 3 layers, but the config's num_hidden_layers is 2"),
        ({"rms_norm_eps": 1e-5}, GraphMismatch, "what layers.0.qkv reads of the graph is not what the config describes"),
        ({"rope_parameters": {"rope_theta": 5e5}}, GraphMismatch, "the cosines cos are of another rotation"),
        ({"intermediate_size": 96}, ShapeMismatch, r"gate_proj.* has shape \[64, 32\], but the config's intermediate_size"),
        ({"model_type": "gemma"}, GraphMismatch, "what layers.0.qkv reads|what layers.0.down reads"),
    ],
    ids=["layers", "eps", "theta", "sizes", "family"],
)
def test_a_config_of_another_model(
    written: Path, tmp_path: Path, changes: dict[str, object], kind: type[SourceError], message: str
) -> None:
    folder = copied(written / "floats", tmp_path / "copy")
    config = LlamaConfig(**SIZES).to_dict() | changes
    if config["model_type"] == "gemma":
        config["hidden_act"] = "gelu_pytorch_tanh"
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, kind, message)


def test_a_bias_that_the_config_lacks(written: Path, tmp_path: Path) -> None:
    def change(graph: onnx.GraphProto) -> None:
        graph.initializer.append(numpy_helper.from_array(np.ones(64, np.float32), "bias"))
        product = next(n for n in graph.node if n.op_type == "MatMul" and n.input[1].startswith("model.layers.0.self_attn.q"))
        made, place = product.output[0], list(graph.node).index(product)
        product.output[0] = "bare"
        graph.node.insert(place + 1, helper.make_node("Add", ["bare", "bias"], [made], "added"))

    folder = copied(written / "floats", tmp_path / "copy", change)
    refused(folder, UnexpectedTensor, "no place for .* q_proj.bias|no place for .*proj.bias")


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"type": "gemma2"}, UnsupportedGraph, "says too little of a model of type 'gemma2'"),
        ({"vocab_size": None}, DamagedFile, "vocab_size"),
        ({"decoder": {}}, DamagedFile, "lacks 'hidden_size'"),
    ],
)
def test_a_genai_config_that_says_too_little(
    written: Path, tmp_path: Path, changes: dict[str, object], kind: type[SourceError], message: str
) -> None:
    folder = copied(written / "floats", tmp_path / "copy")
    stated = json.loads((folder / "genai_config.json").read_text())
    if changes.get("vocab_size", 0) is None:
        del stated["model"]["vocab_size"]
    stated["model"] |= {key: value for key, value in changes.items() if value is not None}
    (folder / "genai_config.json").write_text(json.dumps(stated))
    refused(folder, kind, message)


def test_no_config(written: Path, tmp_path: Path) -> None:
    folder = copied(written / "floats", tmp_path / "copy")
    (folder / "genai_config.json").unlink()
    refused(folder, MissingFile, "neither config.json nor genai_config.json")
