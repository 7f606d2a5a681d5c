"""Families in GGUF files as llama.cpp's converter writes them, against the same models opened from Hugging Face's folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from numpy.typing import NDArray
from transformers import (
    Glm4Config,
)

from optimizer.importers import DamagedFile, MissingTensor, ShapeMismatch, open_source
from optimizer.importers.gguf_config import hf_config
from optimizer.importers.gguf_families import GGUF_FAMILIES
from runtime.models import UnsupportedModel, architecture
from tests.house.test_words import ROOT
from tests.importers.gguf_models import FACTORS, FAMILIES, PHI3_LONG, opened
from tests.importers.gguf_writing import write_gguf
from tests.importers.random_models import SIZES, random_model


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_and_the_architecture_are_the_folders(name: str, tmp_path: Path) -> None:
    theirs, ours = opened(name, tmp_path)
    if name == "phi3, longrope":  # a factor that the folder's config implies, and the file says in fp32
        assert ours.architecture.rope.attention_factor == pytest.approx(theirs.architecture.rope.attention_factor, rel=1e-7)
        rope = ours.architecture.rope.model_copy(update={"attention_factor": theirs.architecture.rope.attention_factor})
        assert ours.architecture.model_copy(update={"rope": rope}) == theirs.architecture
    else:
        assert ours.architecture == theirs.architecture
    for tensor in [*theirs.architecture.float_shapes(), *(f"{group}.weight" for group in theirs.architecture.linear_shapes())]:
        assert torch.equal(ours.tensor(tensor), theirs.tensor(tensor)), tensor


@dataclass(frozen=True)
class Header:
    """A file's, of a model too deep to write."""

    metadata: dict[str, Any]
    tensors: tuple[str, ...] = ()
    path: str = "model.gguf"

    def read(self, name: str) -> NDArray[np.float32]:
        raise AssertionError(f"{name} is read, and keys alone should be")


@pytest.mark.parametrize(("kind", "num_layers"), [("gemma2", 46), ("gemma3", 62)])
def test_scores_of_the_widest_gemmas(kind: str, num_layers: int) -> None:
    """llama.cpp knows them by their number of layers: 4608 / 32, as in their configs, in place of head_dim."""
    keys = {
        "block_count": num_layers,
        "context_length": 8192,
        "embedding_length": 4608,
        "feed_forward_length": 36864,
        "attention.head_count": 32,
        "attention.head_count_kv": 16,
        "attention.key_length": 128,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "vocab_size": 256000,
    }
    scalars = []
    for shaped in (keys, keys | {"block_count": 42}):
        metadata = {f"{kind}.{key}": value for key, value in shaped.items()} | {"general.architecture": kind}
        scalars.append(architecture(hf_config(Header(metadata))).query_scalar)
    assert scalars == [144, 128]


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (
            "gemma3",
            {"drop": "model.layers.0.post_feedforward_layernorm.weight"},
            MissingTensor,
            r"blk\.0\.post_ffw_norm\.weight",
        ),
        (
            "gemma3",
            {"metadata": {"gemma3.attention.sliding_window_pattern": [True]}},
            DamagedFile,
            "an entry per layer, 7, got 1",
        ),
        ("gemma3", {"metadata": {"gemma3.attention.value_length": 8}}, UnsupportedModel, "different sizes per head"),
        ("gemma4", {"metadata": {"gemma4.attention.key_length_swa": None}}, DamagedFile, "lacks .*key_length_swa"),
        ("gemma4", {"leave_out": r"blk\.2\.inp_gate\.weight"}, MissingTensor, r"blk\.2\.inp_gate\.weight"),
        ("gemma4", {"leave_out": r"blk\.0\.attn_v\.weight"}, UnsupportedModel, "it has none in layers 0, and .* window are 2"),
        (
            "gemma4",
            {"metadata": {"gemma4.attention.sliding_window_pattern": [True, False]}},
            DamagedFile,
            "sliding_window_pattern must have an entry per layer, 5, got 2",
        ),
        ("gemma4", {"metadata": {"gemma4.attention.shared_kv_layers": 5}}, DamagedFile, "below the number of layers, 5, got 5"),
        (
            "gemma4",
            {"metadata": {"gemma4.attention.shared_kv_layers": 1}},
            UnsupportedModel,
            "layer 4 must attend to .* layer 3",
        ),
        ("gemma4", {"metadata": {"gemma4.attention.key_length_swa": 0}}, DamagedFile, r"must be positive, got \[0, 32\]"),
        ("gemma4", {"metadata": {"gemma4.attention.value_length_swa": 8}}, UnsupportedModel, "different sizes per head"),
        ("gemma4", {"metadata": {"gemma4.feed_forward_length": 128}}, ShapeMismatch, r"blk\.0\.ffn_gate\.weight"),
        ("gemma4", {"metadata": {"gemma4.rope.scaling.factor": 8.0}}, UnsupportedModel, r"scales positions \(factor\)"),
        ("gemma4", {"metadata": {"gemma4.rope.dimension_count_swa": 8}}, UnsupportedModel, "partial_rotary_factor"),
        (
            "gemma4",
            {"metadata": {"gemma4.expert_count": 8}},
            DamagedFile,
            "lacks .*expert_feed_forward_length, .*expert_used_count",
        ),
        ("gemma4, experts", {"metadata": {"gemma4.expert_count": 4}}, DamagedFile, "as there are experts, 4"),
        ("gemma4, experts", {"leave_out": r"blk\.1\.ffn_gate_inp\.scale"}, MissingTensor, r"blk\.1\.ffn_gate_inp\.scale"),
        (
            "gemma4",
            {"extra": {"rope_freqs.weight": np.full(16, 8, np.float32)}},
            UnsupportedModel,
            r"rope_freqs\.weight must be 16 factors",
        ),
        ("gemma2", {"metadata": {"gemma2.rope.freq_base_swa": 5.0}}, UnsupportedModel, "by a base of their own"),
        ("glm4", {"metadata": {"glm4.rope.dimension_sections": [8, 12, 12, 0]}}, UnsupportedModel, "positions of images"),
        ("glm4", {"metadata": {"glm4.nextn_predict_layers": 1}}, UnsupportedModel, "predict further tokens"),
        ("phi3, longrope", {"metadata": {"phi3.rope.scaling.yarn_log_mul": 2.0}}, UnsupportedModel, "yarn_log_mul = 2.0"),
        (
            "granite",
            {"metadata": {"granite.rope.scaling.finetuned": False}},
            UnsupportedModel,
            "no layer of it knows positions",
        ),
        ("granite", {"metadata": {"granite.deepstack_mapping": [-1, 0, 1]}}, UnsupportedModel, "reads images"),
        ("smollm3", {"metadata": {"smollm3.attention.sliding_window": 8}}, UnsupportedModel, "does not say in which layers"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    name: str, options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        opened(name, tmp_path, **options)


def test_gemma_4_has_a_cap_where_a_file_is_silent(tmp_path: Path) -> None:
    _, ours = opened("gemma4, keys as values", tmp_path, metadata={"gemma4.final_logit_softcapping": None})
    assert ours.architecture.logit_softcap == 30.0


def test_gate_and_up_of_gemma_4s_experts_may_stand_apart(tmp_path: Path) -> None:
    """As llama.cpp reads them, too."""
    theirs, _ = opened("gemma4, experts", tmp_path / "together")
    names = [f"layers.{layer}.experts_gate_up.weight" for layer in range(theirs.architecture.num_layers)]
    halves = (theirs.tensor(name).view(6, 2, 32, 32).numpy() for name in names)
    apart = {
        f"blk.{layer}.ffn_{part}_exps.weight": np.ascontiguousarray(half[:, i])
        for layer, half in enumerate(halves)
        for i, part in enumerate(("gate", "up"))
    }
    _, ours = opened("gemma4, experts", tmp_path / "apart", leave_out=r".*gate_up_exps.*", extra=apart)
    assert all(torch.equal(ours.tensor(name), theirs.tensor(name)) for name in names)


def test_gemma_4_without_the_factors_of_full_attention(tmp_path: Path) -> None:
    config, metadata, _ = FAMILIES["gemma4"]
    with pytest.raises(DamagedFile, match=r"lacks rope_freqs\.weight, which says how much of a head turns"):
        open_source(write_gguf(tmp_path / "model.gguf", random_model(config), metadata=metadata))


def test_gemma_4_as_the_converter_joins_it_and_with_keys_that_nothing_reads(tmp_path: Path) -> None:
    """Published checkpoints have keys of layers that attend to others, and the converter keeps them."""
    keys = {"blk.3.attn_k.weight": np.ones((32, 32), np.float32), "blk.4.attn_k_norm.weight": np.ones(32, np.float32)}
    theirs, ours = opened("gemma4", tmp_path, joins_qkv=True, extra=keys)
    assert ours.architecture == theirs.architecture
    for tensor in (f"{group}.weight" for group in theirs.architecture.linear_shapes()):
        assert torch.equal(ours.tensor(tensor), theirs.tensor(tensor)), tensor
    (note,) = (note for note in ours.checkpoint.notes() if "attn_k" in note)
    assert note.startswith("not read: blk.3.attn_k.weight, blk.4.attn_k_norm.weight")


def test_longrope_without_the_factors_of_one_length(tmp_path: Path) -> None:
    extra = {"rope_factors_long.weight": FACTORS["rope_factors_long.weight"]}
    path = write_gguf(tmp_path / "model.gguf", random_model(PHI3_LONG), extra=extra)
    with pytest.raises(DamagedFile, match=r"lacks rope_factors_short\.weight"):
        open_source(path)


def test_codes_of_rows_in_another_order_are_values_alone(tmp_path: Path) -> None:
    config = Glm4Config(**SIZES, head_dim=16, pad_token_id=None)
    metadata = {"glm4.rope.dimension_count": 8}
    path = write_gguf(tmp_path / "model.gguf", random_model(config), GGMLQuantizationType.Q4_0, metadata=metadata)
    source = open_source(path)
    assert source.tensor("layers.0.qkv.weight").shape == (128, 32)
    assert source.checkpoint.stored("model.layers.0.mlp.down_proj.weight") is not None


def test_granite_4_without_experts(tmp_path: Path) -> None:
    """The converter says how many heads of keys each layer has, and the size of what would stand beside experts."""
    keys = {"attention.head_count_kv": [2, 2, 2], "expert_shared_feed_forward_length": 64, "ssm.state_size": 256}
    theirs, ours = opened("granite", tmp_path, metadata={f"granite.{key}": value for key, value in keys.items()})
    assert ours.architecture == theirs.architecture


def test_the_documentation_says_which_families_are_read_from_gguf() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| [^|]*GGUF \|$", (ROOT / "docs/models.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(GGUF_FAMILIES)
