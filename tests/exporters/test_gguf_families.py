"""Exported families beside the files that llama.cpp's converter would have written of the same models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import Gemma4UnifiedTextConfig, GraniteMoeHybridConfig

from artifacts.architecture import Architecture
from optimizer.exporters import ExportError
from optimizer.exporters.gguf_layout import whole_gain
from optimizer.exporters.gguf_metadata import architecture_metadata, check_read_back, gguf_family, rope_tensors
from optimizer.exporters.logical import LogicalBundle
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.importers import Source, open_source
from optimizer.importers.gguf_tokenizer import tokenizer_json
from optimizer.weights.quantized_store import QuantizedStore
from runtime.models import architecture
from runtime.models.stored_rows import Gain
from tests.exporters.conftest import save_bundle
from tests.exporters.test_gguf import export
from tests.importers.gguf_models import FAMILIES, GRANITE, HYBRID, LAYERED, opened
from tests.importers.gguf_writing import TOKENIZER
from tests.importers.random_models import SIZES, random_model, save_folder
from tests.runtime.conftest import Tiny, rare_apart


def exported(name: str, scheme: str, folder: Path) -> tuple[Source, Path]:
    """The model of Hugging Face's folder, and our own export of it. `model.gguf` of the folder is the converter's."""
    theirs, _ = opened(name, folder)
    return theirs, exported_source(theirs, scheme, folder)


def exported_source(theirs: Source, scheme: str, folder: Path) -> Path:
    """With a tokenizer of no more tokens than a model has rows."""
    model = Tiny(None, theirs, QuantizedStore(theirs, folder / "store"))  # type: ignore[arg-type]  # no test asks transformers
    texts = tokenizer_json({f"tokenizer.ggml.{key}": value for key, value in TOKENIZER.items()})
    return export(save_bundle(folder / "bundle", model, scheme, tokenizer_json=texts))


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Keys of the architecture, tensors."""
    reader = GGUFReader(path)
    keys = {field.name: field.contents() for field in reader.fields.values() if "." in field.name}
    return keys, {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_file_is_the_converters_and_the_importer_reads_it(name: str, tmp_path: Path) -> None:
    theirs, path = exported(name, "fp32", tmp_path)
    ours = open_source(path)
    if name not in ("phi3, longrope", "granite, silent"):  # the file says in fp32 what a folder's config has in fp64
        assert ours.architecture == theirs.architecture
    for tensor in [*theirs.architecture.float_shapes(), *(f"{group}.weight" for group in theirs.architecture.linear_shapes())]:
        assert torch.equal(ours.tensor(tensor), theirs.tensor(tensor)), tensor
    (keys, tensors), (their_keys, their_tensors) = read(path), read(tmp_path / "model.gguf")
    assert tensors.keys() == their_tensors.keys()
    for tensor, values in their_tensors.items():
        if tensor.endswith(("norm.weight", "ffn_gate_inp.scale")):  # divided and multiplied by the scale of embeddings
            np.testing.assert_array_max_ulp(tensors[tensor], values, 1)
        else:
            np.testing.assert_array_equal(tensors[tensor], values)
    family = their_keys["general.architecture"]
    for key, value in their_keys.items():
        # The first was given where nothing is scaled; the others are what llama.cpp takes where a file is silent.
        if key.startswith(family) and not (key.endswith("original_context_length") and "longrope" not in name):
            assert keys[key] == pytest.approx(value), key


@pytest.mark.parametrize(
    "name", [pytest.param("gemma4, experts", marks=pytest.mark.slow), "mixtral", "qwen3_moe", "granitemoehybrid"]
)
@pytest.mark.parametrize("scheme", ["int4-g32-sym", "int4-g32-asym", "int8"])
def test_experts_as_the_bundle_has_them(name: str, scheme: str, tmp_path: Path) -> None:
    _, path = exported(name, scheme, tmp_path)
    logical, ours = LogicalBundle.open(tmp_path / "bundle"), open_source(path)
    for group in ("layers.0.experts_gate_up", "layers.2.experts_down"):
        matrix, values = logical.matrix(group), ours.tensor(f"{group}.weight").flatten(0, -2).numpy()
        kept = ours.stored(group, matrix.scheme)
        if scheme == "int4-g32-sym":
            assert isinstance(kept, QuantizedMatrix)
            np.testing.assert_array_equal(kept.codes, matrix.codes)
        np.testing.assert_allclose(values, matrix.dequantize(), atol=0 if scheme == "int4-g32-sym" else 2e-3 * values.max())


def test_experts_in_a_scheme_of_their_own_are_refused(tmp_path: Path) -> None:
    theirs, other = opened("mixtral", tmp_path)
    apart = rare_apart(theirs)
    model = Tiny(None, apart, QuantizedStore(apart, tmp_path / "store"))  # type: ignore[arg-type]  # as above
    schemes = "int4-g32-sym, rare int8"
    with pytest.raises(ExportError, match="rare_experts: 0 under quantization"):
        export(save_bundle(tmp_path / "bundle", model, schemes, tokenizer_json=other.tokenizer_json))


def test_gpt_oss_as_published(tmp_path: Path) -> None:
    """Its yarn has bounds that llama.cpp rounds: written, and said."""
    config, *_ = FAMILIES["gpt_oss"]
    config = type(config)(**{**config.to_dict(), "rope_parameters": {**config.rope_parameters, "truncate": False}})
    theirs = open_source(save_folder(random_model(config), tmp_path / "hf"))
    path = exported_source(theirs, "fp32", tmp_path)
    rope = theirs.architecture.rope.model_copy(update={"truncate": True})
    assert not theirs.architecture.rope.truncate
    assert open_source(path).architecture == theirs.architecture.model_copy(update={"rope": rope})
    assert "rounds the bounds of yarn's ramp" in str(GGUFReader(path).fields["coldforge.export"].contents())


def test_granite_4_without_experts_is_written_as_granite(tmp_path: Path) -> None:
    config = GraniteMoeHybridConfig(**SIZES | HYBRID, **GRANITE, num_local_experts=0, position_embedding_type="rope")
    theirs = open_source(save_folder(random_model(config), tmp_path / "hf"))
    ours = open_source(exported_source(theirs, "fp32", tmp_path))
    assert ours.architecture == theirs.architecture.model_copy(update={"family": "granite"})
    for tensor in ("layers.2.gate_up.weight", "layers.0.down.weight", "layers.1.qkv.weight"):
        assert torch.equal(ours.tensor(tensor), theirs.tensor(tensor))


def test_gemma_4_12b_comes_back_as_gemma_4(tmp_path: Path) -> None:
    theirs = open_source(save_folder(random_model(Gemma4UnifiedTextConfig(**LAYERED)), tmp_path / "hf"))
    ours = open_source(exported_source(theirs, "int4-g32-sym", tmp_path))
    assert ours.architecture == theirs.architecture.model_copy(update={"family": "gemma4_text"})
    logical = LogicalBundle.open(tmp_path / "bundle")
    for group in ("layers.2.qkv", "layers.4.gate_up"):
        assert torch.equal(ours.tensor(f"{group}.weight"), torch.from_numpy(logical.matrix(group).dequantize()))


def test_a_gain_that_was_divided_is_found_again() -> None:
    random = np.random.default_rng(0)
    for divisor in (1.0, 640**0.5, 3.7, 1152**0.5):
        stored = torch.from_numpy(random.normal(0, 3, 5000).astype(np.float32))
        for added in (0.0, 1.0):
            gain = Gain(added, divisor)
            meant = gain.of(stored)
            again = torch.from_numpy(whole_gain(gain, meant.numpy()))
            assert torch.equal(gain.of(again - added), meant)


def described(name: str) -> Architecture:
    return architecture(FAMILIES[name][0].to_dict())


def moe(**changes: Any) -> Callable[[Architecture], dict[str, Any]]:
    def changed(a: Architecture) -> dict[str, Any]:
        assert a.moe is not None
        return {"moe": a.moe.model_copy(update=changes)}

    return changed


REFUSED: dict[str, tuple[str, Callable[[Architecture], dict[str, Any]], str]] = {
    "scale of scores": ("gemma3", lambda a: {"query_scalar": 40.0}, r"query_scalar = 40\.0 of a gemma3_text .* take 16\.0"),
    "caps": ("gemma3", lambda a: {"attention_softcap": 50.0}, r"attention_softcap = 50\.0 .* take 0\.0"),
    "no caps": ("gemma2", lambda a: {"logit_softcap": 0.0}, "gemma2 needs logit_softcap"),
    "untied": ("gemma2", lambda a: {"tie_embeddings": False}, "gemma2 needs tie_embeddings"),
    "tied": ("olmo2", lambda a: {"tie_embeddings": True}, "olmo2 cannot have tie_embeddings, and this model has it"),
    "scale of branches": ("gemma", lambda a: {"branch_scale": 0.5}, "cannot express branch_scale = 0.5"),
    "biases": ("gemma2", lambda a: {"qkv_bias": True}, "gemma2 has no biases of qkv"),
    "biases of o": ("smollm3", lambda a: {"output_bias": True}, "smollm3 has no biases of (qkv|o)"),
    "two windows": ("gemma3", lambda a: {"layer_windows": (*a.layer_windows[:-1], 48)}, "cannot express layer_windows"),
    "windows": ("smollm3", lambda a: {"layer_windows": (8,) * 7}, "in which layers a smollm3 model has a sliding window"),
    "positions": ("smollm3", lambda a: {"layer_ropes": (1,) * 7}, "cannot express layer_ropes"),
    "size of heads": ("phi3", lambda a: {"head_dim": 16}, "num_heads . head_dim to be hidden_size, 32, and this model's is 64"),
    "weights of experts": (
        "qwen3_moe",
        moe(normalized=False),
        "cannot express moe = .*'normalized': False.* a qwen3_moe model",
    ),
    "weights that sum to one": ("olmoe", moe(normalized=True), "cannot express moe = .*'normalized': True"),
    "shared keys": ("olmoe", lambda _: {"num_kv_heads": 2}, "as many heads of keys as of queries, 4, and this model has 2"),
    "dense layers first": ("qwen3_moe", moe(first_layer=1), "cannot express moe = .*'first_layer': 1"),
    "a shared expert": ("mixtral", moe(shared_intermediate_size=32), "'shared_intermediate_size': 32"),
    "no positions": (
        "granitemoehybrid",
        lambda a: {"rope": a.rope.model_copy(update={"rotary_dim": 0})},
        r"partial_rotary_factor must be 1 for granitemoehybrid, got 0\.0",
    ),
    "groups by their best": (
        "deepseek_v2",
        moe(num_groups=4, num_chosen_groups=2),
        "expert_group_count = 4 with a softmax: llama.cpp chooses groups by the sum",
    ),
    "queries in one step": (
        "deepseek_v2",
        lambda a: {"mla": a.mla and a.mla.model_copy(update={"q_lora_rank": None})},
        "reads a q_lora_rank of models of 3 layers, and this model's is None",
    ),
    "a rank of queries": ("deepseek_v3", lambda _: {"num_layers": 27}, "reads no q_lora_rank of models of 27 layers"),
    "no shared experts": ("deepseek_v3", moe(shared_intermediate_size=0), "deepseek2 needs shared experts"),
    "scaled rotations": (
        "deepseek_v3",
        lambda a: {"rope": a.rope.model_copy(update={"attention_factor": 1.2})},
        "cannot express rope = .*'attention_factor': 1.2",
    ),
    "scores without a scale": (
        "deepseek_v3",
        lambda a: {"mla": a.mla and a.mla.model_copy(update={"score_factor": 1.0})},
        "yarn without rope.scaling.yarn_log_multiplier",
    ),
    "no windows": ("gemma4", lambda a: {"layer_windows": ()}, "gemma4 needs layer_windows, and this model has none"),
    "another cache": (
        "gemma4",
        lambda a: {"layer_windows": (24, 0, 24, 24, 0), "layer_caches": (0, 1, 2, 2, 1)},
        "layer 3 must attend to the cache of layer 1, as llama.cpp has it, but the last of its kind with a cache is 2",
    ),
    "a cache of one layer": (
        "gemma4",
        lambda a: {"layer_caches": (0, 1, 2, 3, 2)},
        "layer 4 must attend to the cache of layer 3",
    ),
    "a wide layer": (
        "gemma4, keys as values",
        lambda a: {"layer_shapes": (a.layer_shape(0).model_copy(update={"intermediate_size": 96}), *a.layer_shapes[1:])},
        r"feed_forward_length must be the same in all layers, .* got \[96, 64, 64, 64, 64\]",
    ),
    "positions of full attention": (
        "gemma4",
        lambda a: {"further_ropes": (a.further_ropes[0].model_copy(update={"factor": 2.0}),)},
        "cannot express further_ropes = .*'factor': 2.0",
    ),
    "positions of windows": (
        "gemma4",
        lambda a: {"rope": a.rope.model_copy(update={"scaling": "linear", "factor": 2.0})},
        r"scales positions \(factor, rope_type\), which its family does not",
    ),
    "biases of Gemma 4": ("gemma4", lambda _: {"qkv_bias": True}, "gemma4 has no biases of qkv"),
    "another rope of windows": (
        "gemma2",
        lambda a: {"further_ropes": (a.rope.model_copy(update={"theta": 5.0}),), "layer_ropes": (1, 0, 1)},
        "cannot express further_ropes",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_llama_cpp_would_read_otherwise_is_refused_by_name(what: str) -> None:
    name, changes, message = REFUSED[what]
    a = described(name)
    a = a.model_copy(update=changes(a))
    with pytest.raises(ExportError, match=message):
        family = gguf_family(a)
        metadata = {**architecture_metadata(a, family), "general.architecture": family.architecture}
        tensors = [f"blk.{layer}.attn_v.weight" for layer in range(a.num_layers) if len(a.qkv_sizes(layer)) == 3]
        floats = rope_tensors(a)
        check_read_back(a, metadata, [*tensors, *floats, *([] if a.tie_embeddings else ["output.weight"])], floats)


def test_gemma3_without_windows() -> None:
    a = described("gemma3")
    plain = a.model_copy(update={"layer_windows": (), "layer_ropes": (), "further_ropes": ()})
    family = gguf_family(plain)
    metadata = {**architecture_metadata(plain, family), "general.architecture": family.architecture}
    check_read_back(plain, metadata, [], {})
    assert not any("sliding" in key for key in metadata)


def test_gemma2_without_windows_says_so_of_each_layer() -> None:
    """A silent file would have llama.cpp's window."""
    a = described("gemma2").model_copy(update={"layer_windows": ()})
    metadata = {**architecture_metadata(a, gguf_family(a)), "general.architecture": "gemma2"}
    assert metadata["gemma2.attention.sliding_window_pattern"] == [False] * 3
    check_read_back(a, metadata, [], {})
