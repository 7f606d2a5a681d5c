"""Decoders in ONNX against onnxruntime, which runs the same files, and against the codes that were written into them."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from artifacts.precision import Scheme
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.stored_matrix import Misfit
from optimizer.importers import Source, describe_stored_codes, open_source
from optimizer.weights.quantized_store import QuantizedStore
from tests.exporters.conftest import our_logits, relative_error, save_bundle
from tests.importers.onnx_writing import Built, trace
from tests.importers.random_models import SIZES, random_model, save_folder
from tests.runtime.conftest import Tiny, moderate

IDS = np.random.default_rng(0).integers(4, 96, 30).tolist()
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
QWEN3 = Qwen3Config(**SIZES, head_dim=16)


def their_logits(folder: Path, source: Source) -> NDArray[np.float32]:
    """onnxruntime's, in two runs with the cache between them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    a, inputs = source.architecture, {entry.name: entry.type for entry in model.get_inputs()}
    empty = np.zeros((1, a.num_kv_heads, 0, a.head_dim), np.float32)
    past = {name: empty for name in inputs if name.startswith("past")}
    logits = []
    for start, stop in ((0, 20), (20, len(IDS))):
        feeds = {"input_ids": np.array([IDS[start:stop]]), "attention_mask": np.ones((1, stop), np.int64)}
        if "position_ids" in inputs:
            feeds["position_ids"] = np.arange(start, stop)[None]
        names = [entry.name for entry in model.get_outputs()]
        found = dict(zip(names, model.run(names, feeds | past), strict=True))
        past = {name: found[name.replace("past_key_values", "present")] for name in past}
        logits.append(found["logits"][0].astype(np.float32))
    return np.concatenate(logits)


def check_logits(folder: Path, tmp_path: Path) -> Source:
    source = open_source(folder)
    tiny = Tiny(None, source, QuantizedStore(source, tmp_path / "store"))
    ours = our_logits(save_bundle(tmp_path / "bundle", tiny, "fp32"), IDS)
    theirs = their_logits(folder, source)
    assert relative_error(ours, theirs) < 1e-4 and np.abs(ours - theirs).max() < 1e-4
    return source


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES | {"num_hidden_layers": 2}, tie_word_embeddings=True, attention_bias=True, rope_parameters=LLAMA3),
        pytest.param(MistralConfig(**SIZES, head_dim=16, sliding_window=11), marks=pytest.mark.slow),
        pytest.param(QWEN3, marks=pytest.mark.slow),
    ],
    ids=["llama", "mistral", "qwen3"],
)
def test_a_traced_decoder(config: PreTrainedConfig, tmp_path: Path) -> None:
    """Norms, rotation and masks in pieces; weights transposed or shared, under names of the exporter's own."""
    model = moderate(random_model(config))
    source = check_logits(trace(model, tmp_path / "onnx"), tmp_path)
    assert source.architecture == open_source(save_folder(model, tmp_path / "hf")).architecture


@pytest.mark.parametrize(
    ("config", "written"),
    [
        (LlamaConfig(**SIZES, head_dim=16), {}),
        (Qwen2Config(**SIZES | {"num_attention_heads": 2, "num_key_value_heads": 1}), {"block": 16, "asymmetric": True}),
        (QWEN3, {"packed_qkv": False, "block": 32}),
        (LlamaConfig(**SIZES, head_dim=16, tie_word_embeddings=True), {"block": 16, "shared": True}),
        (MistralConfig(**SIZES, head_dim=16, sliding_window=11), {"window": 11}),
    ],
    ids=["llama", "qwen2-int4", "qwen3-int4", "llama-shared", "mistral-window"],
)
def test_a_built_decoder(config: PreTrainedConfig, written: dict[str, int], tmp_path: Path) -> None:
    """GroupQueryAttention, packed or not, skip-norms, MatMulNBits; the config is made of genai_config.json and the graph."""
    model = moderate(random_model(config))
    source = check_logits(Built(model, **written).write(tmp_path / "onnx"), tmp_path)
    expected = open_source(save_folder(model, tmp_path / "hf")).architecture
    assert source.architecture == expected.model_copy(update={"qkv_bias": source.architecture.qkv_bias})


@pytest.mark.parametrize(("asymmetric", "scheme"), [(False, "int4-g32-sym"), (True, "int4-g32-asym")])
def test_codes_of_matmulnbits_are_kept(asymmetric: bool, scheme: str, tmp_path: Path) -> None:
    built = Built(moderate(random_model(LlamaConfig(**SIZES))), 32, asymmetric)
    source = open_source(built.write(tmp_path / "onnx"))
    for group in ("layers.0.qkv", "layers.2.down", "head"):
        found = source.stored(group, Scheme.parse(scheme))
        assert isinstance(found, QuantizedMatrix)
        module = {"layers.0.qkv": "layers.0.self_attn.q_proj", "layers.2.down": "layers.2.mlp.down_proj", "head": "lm_head"}[
            group
        ]
        (written,) = [packed for name, packed in built.codes.items() if name.split("+")[0].endswith(module)]
        np.testing.assert_array_equal(found.codes, written.codes)
        np.testing.assert_array_equal(found.scales, written.scales)
        if asymmetric:
            np.testing.assert_array_equal(found.zeros, written.zeros)
    other = source.stored("head", Scheme.parse("int4-g32-sym")) if asymmetric else source.stored("embed", Scheme.parse(scheme))
    assert isinstance(other, Misfit) if asymmetric else other is None


@pytest.mark.parametrize(("asymmetric", "scheme"), [(False, "int4-g32-sym"), (True, "int4-g32-asym")])
def test_codes_under_scales_in_fp32_are_kept(asymmetric: bool, scheme: str, tmp_path: Path) -> None:
    """As the builder writes them for CPUs. Values are of the scales as they are; a bundle rounds these, by what it says."""
    built = Built(moderate(random_model(LlamaConfig(**SIZES))), 32, asymmetric, np.float32)
    source, parsed, group = open_source(built.write(tmp_path / "onnx")), Scheme.parse(scheme), "layers.2.down"
    found, values = source.stored(group, parsed), source.tensor(f"{group}.weight").numpy()
    (written,) = [packed for name, packed in built.codes.items() if name.split("+")[0].endswith("layers.2.mlp.down_proj")]
    assert isinstance(found, QuantizedMatrix)
    np.testing.assert_array_equal(found.codes, written.codes)
    np.testing.assert_array_equal(found.scales, written.scales.astype(np.float16))
    change = float(np.linalg.norm(values - found.dequantize()) / np.linalg.norm(values))
    assert 0 < change < 2**-11 and found.rounding == pytest.approx(change, rel=1e-3)
    store = QuantizedStore(source, tmp_path / "store")
    assert store.relative_error(group, parsed) == pytest.approx(change, rel=1e-3)
    (line,) = describe_stored_codes(source, {group: parsed})
    assert (
        line == f"codes kept as in the checkpoint, fp32 scales rounded to fp16 (by {change:.1e} of the weights' norm): {group}"
    )


@pytest.mark.parametrize(("dtype", "kept"), [(np.float16, torch.float16), (ml_dtypes.bfloat16, torch.bfloat16)])
def test_halves_are_read_as_they_are(dtype: type, kept: torch.dtype, tmp_path: Path) -> None:
    model = moderate(random_model(LlamaConfig(**SIZES)))
    source = open_source(Built(model, dtype=dtype).write(tmp_path / "onnx"))
    assert torch.equal(source.tensor("layers.1.down.weight"), model.model.layers[1].mlp.down_proj.weight.to(kept))
    assert source.is_bf16 == (kept == torch.bfloat16)


def test_a_head_by_gemm(tmp_path: Path) -> None:
    """As torch's exporter writes a product of matrices: rows flattened before it, and unflattened behind."""
    folder = Built(moderate(random_model(LlamaConfig(**SIZES, head_dim=16)))).write(tmp_path / "onnx")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    head = model.graph.node[-1]
    for name, shape in (("flat", [-1, 32]), ("whole", [1, -1, 96])):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape), name))
    del model.graph.node[-1]
    model.graph.node.extend([
        onnx.helper.make_node("Reshape", [head.input[0], "flat"], ["rows"]),
        onnx.helper.make_node("Gemm", ["rows", head.input[1]], ["product"]),
        onnx.helper.make_node("Reshape", ["product", "whole"], ["logits"]),
    ])  # fmt: skip
    onnx.save(model, folder / "model.onnx")
    check_logits(folder, tmp_path)


def test_a_file_may_be_named_or_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = Built(moderate(random_model(LlamaConfig(**SIZES)))).write(tmp_path / "onnx")
    source = open_source(folder / "model.onnx")
    digests = source.sha256()
    for name in ("model.onnx", "model.onnx.data"):
        (folder / "onnx").mkdir(exist_ok=True)
        (folder / name).rename(folder / "onnx" / name)
    assert open_source(folder).sha256() == digests
    assert {path.name for path in source.files} >= {"model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json"}
