"""Mixtures of experts in GGUF files: codes, types, and what is damaged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize

from artifacts.precision import Scheme
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.stored_matrix import Misfit
from optimizer.importers import DamagedFile, MissingTensor, ShapeMismatch, UnexpectedTensor, open_source
from optimizer.importers.gguf_file import GgufFile
from optimizer.importers.gguf_places import Place
from runtime.models import UnsupportedModel
from tests.importers.gguf_models import FAMILIES, opened
from tests.importers.gguf_writing import write_gguf
from tests.importers.random_models import random_model


@pytest.mark.parametrize("name", ["mixtral", "granitemoehybrid", "gpt_oss"])
@pytest.mark.parametrize(("kind", "scheme"), [("Q4_0", "int4-g32-sym"), ("Q8_0", "int8"), ("MXFP4", "mxfp4")])
def test_codes_of_experts_are_kept(name: str, kind: str, scheme: str, tmp_path: Path) -> None:
    """One expert behind the other, each with its rows of gate before those of up."""
    config, metadata, _ = FAMILIES[name]
    path = write_gguf(tmp_path / "model.gguf", random_model(config), GGMLQuantizationType[kind], metadata=metadata)
    source = open_source(path)
    groups = ["layers.1.experts_gate_up", "layers.1.gate_up"][: 1 + ("hybrid" in name)]
    for group in [*groups, "layers.1.experts_down"][: 3 if scheme != "int8" else len(groups)]:  # down has two blocks in a row
        found = source.stored(group, Scheme.parse(scheme))
        assert isinstance(found, QuantizedMatrix)
        np.testing.assert_array_equal(found.dequantize(), source.tensor(f"{group}.weight").flatten(0, -2).numpy())


def test_experts_in_types_that_no_scheme_holds(tmp_path: Path) -> None:
    """K-quants, which the gguf package reads and does not write: of three matrices one is read."""
    random, block_bytes = np.random.default_rng(0), 144
    blocks = random.integers(0, 256, (3, 4, 2 * block_bytes), dtype=np.uint8)
    blocks.reshape(3, 4, 2, block_bytes)[..., :4] = np.array([0.01, 0.02], "<f2").view(np.uint8)  # scales, not NaN
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("blk.0.ffn_gate_exps.weight", blocks, raw_dtype=GGMLQuantizationType.Q4_K)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    file, place = GgufFile.open(tmp_path / "model.gguf"), Place(("blk.0.ffn_gate_exps.weight",), slice(1, 2), is_expert=True)
    assert place.shape(file) == (4, 512)
    np.testing.assert_array_equal(place.read(file), dequantize(blocks[1], GGMLQuantizationType.Q4_K))
    assert place.stored(file) == Misfit("codes are Q4_K")


EXPS = "blk.1.ffn_up_exps.weight"
MALFORMED: dict[str, tuple[str, dict[str, Any], type[Exception], str]] = {
    "more experts than matrices": (
        "mixtral",
        {"metadata": {"llama.expert_count": 5}},
        DamagedFile,
        r"blk\.\d\.ffn_\w+_exps\.weight in .* as many matrices as there are experts, 5, and has shape \[4, ",
    ),
    "no matrices of up": ("olmoe", {"leave_out": "blk.1.ffn_up_exps.weight"}, MissingTensor, r"blk\.1\.ffn_up_exps"),
    "another size": (
        "qwen3_moe",
        {"metadata": {"qwen3moe.expert_feed_forward_length": 40}},
        ShapeMismatch,
        r"ffn_gate_exps\.weight in .* moe_intermediate_size",
    ),
    "gate unlike up": (
        "granitemoe",
        {"leave_out": EXPS, "extra": {EXPS: np.zeros((4, 64, 64), np.float32)}},
        ShapeMismatch,
        r"ffn_gate_exps.* and .*ffn_up_exps.* must differ in rows alone, and have shapes \[4, 64, 32\] and \[4, 64, 64\]",
    ),
    "no router": ("granitemoehybrid", {"leave_out": "blk.0.ffn_gate_inp.weight"}, MissingTensor, r"blk\.0\.ffn_gate_inp"),
    "more experts for a token than there are": (
        "olmoe",
        {"metadata": {"olmoe.expert_used_count": 9}},
        UnsupportedModel,
        "num_experts_per_token must be at most num_experts",
    ),
    "experts, a tensor each": (
        "mixtral",
        {"extra": {"blk.0.ffn_gate.0.weight": np.zeros((64, 32), np.float32)}},
        UnsupportedModel,
        "has a tensor for each expert .* convert it again",
    ),
    "gate and up in one": (
        "qwen3_moe",
        {"extra": {"blk.0.ffn_gate_up_exps.weight": np.zeros((6, 64, 32), np.float32)}},
        UnsupportedModel,
        "gate and up of its experts in one tensor",
    ),
    "a tensor without a place": (
        "mixtral",
        {"extra": {"blk.0.exp_probs_b.bias": np.zeros(4, np.float32)}},
        UnexpectedTensor,
        "exp_probs_b",
    ),
    "keys and values of two ranks": (
        "deepseek_v3",
        {"leave_out": r"blk\.1\.attn_v_b\.weight", "extra": {"blk.1.attn_v_b.weight": np.zeros((4, 10, 8), np.float32)}},
        ShapeMismatch,
        r"attn_k_b\.weight and blk\.1\.attn_v_b\.weight .* must have shapes .* got \[4, 16, 12\] and \[4, 10, 8\]",
    ),
    "no rank": ("deepseek_v2", {"metadata": {"deepseek2.attention.kv_lora_rank": None}}, DamagedFile, "attention.kv_lora_rank"),
    "no bias of the router": ("deepseek_v3", {"leave_out": r"blk\.2\.exp_probs_b\.bias"}, MissingTensor, "exp_probs_b"),
    "groups by a sum": (
        "deepseek_v2",
        {"metadata": {"deepseek2.expert_group_count": 4, "deepseek2.expert_group_used_count": 2}},
        UnsupportedModel,
        "by the sum of their two best experts",
    ),
    "yarn that scales all scores": (
        "deepseek_v3",
        {"metadata": {"deepseek2.rope.scaling.yarn_log_multiplier": None}},
        UnsupportedModel,
        "yarn without",
    ),
    "no sinks": ("gpt_oss", {"leave_out": r"blk\.1\.attn_sinks\.weight"}, MissingTensor, r"blk\.1\.attn_sinks\.weight"),
    "biases of fewer experts": (
        "gpt_oss",
        {"leave_out": r"blk\.0\.ffn_up_exps\.bias", "extra": {"blk.0.ffn_up_exps.bias": np.zeros((3, 64), np.float32)}},
        DamagedFile,
        r"ffn_up_exps\.bias .* as many matrices as there are experts, 4, and has shape \[3, 64\]",
    ),
    "gate unlike up, by turns": (
        "gpt_oss",
        {"leave_out": re.escape(EXPS), "extra": {EXPS: np.zeros((4, 64, 64), np.float32)}},
        ShapeMismatch,
        r"must have one shape, of all experts, got \[4, 64, 32\] and \[4, 64, 64\]",
    ),
    "no experts": ("qwen3_moe", {"metadata": {"qwen3moe.expert_count": 0}}, UnsupportedModel, "qwen3moe and has no experts"),
    "experts elsewhere": ("olmo2", {"metadata": {"olmo2.expert_count": 4}}, UnsupportedModel, "olmo2 and has experts"),
    "no key heads in some layers": (
        "granite",
        {"metadata": {"granite.attention.head_count_kv": [2, 0, 2]}},
        UnsupportedModel,
        r"as many key heads in all layers, got \[0, 2\]",
    ),
}


def test_a_rotation_that_llama_cpp_rounds_is_told(tmp_path: Path) -> None:
    _, ours = opened("gpt_oss", tmp_path)
    assert any("yarn's bounds are rounded" in note for note in ours.checkpoint.notes())
    assert not any("yarn" in note for note in opened("deepseek_v3", tmp_path / "other")[1].checkpoint.notes())


def test_latents_of_older_files(tmp_path: Path) -> None:
    """What makes keys and values is one matrix, and sizes are those of a head."""
    state = random_model(FAMILIES["deepseek_v2"][0]).state_dict()
    joined = {f"blk.{i}.attn_kv_b.weight": state[f"model.layers.{i}.self_attn.kv_b_proj.weight"].numpy() for i in range(3)}
    sizes = {"head_count_kv": 4, "key_length": 20, "value_length": 10, "key_length_mla": None, "value_length_mla": None}
    metadata = {f"deepseek2.attention.{key}": value for key, value in sizes.items()}
    theirs, ours = opened("deepseek_v2", tmp_path, metadata=metadata, extra=joined, leave_out=r".*attn_[kv]_b\.weight")
    assert ours.architecture == theirs.architecture
    for name in ("k_up", "v_up"):
        assert torch.equal(ours.tensor(f"layers.1.{name}.weight"), theirs.tensor(f"layers.1.{name}.weight"))


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_mixture_is_one_error(what: str, tmp_path: Path) -> None:
    name, options, error, message = MALFORMED[what]
    with pytest.raises(error, match=message) as refused:
        opened(name, tmp_path, **options)
    assert "\n" not in str(refused.value)
