"""Gemma 4: what its configs say of each layer, how its tensors are read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma4TextConfig, Gemma4UnifiedTextConfig

from artifacts.architecture import Architecture
from artifacts.errors import UserError
from artifacts.kv_cache import kv_bytes_per_token, layer_kv_bytes
from artifacts.layer_parts import Moe, Rope
from optimizer.importers import open_source
from optimizer.parallel.division import Division
from optimizer.transforms import UntransformableModelError, refuse_what_cannot_fold
from runtime.models import UnsupportedModel, architecture, checkpoint_tensors
from runtime.models.stored_rows import Gain
from runtime.rope import rope_tables
from tests.importers.random_models import SIZES, random_model, save_folder

LAYERS = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
OWN = {
    "num_hidden_layers": 5,
    "layer_types": LAYERS,
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 24,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 96,
}
E2B = {"num_kv_shared_layers": 2, "use_double_wide_mlp": True}
EXPERTS = {"enable_moe_block": True, "num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 48}
DENSE = {"hidden_size_per_layer_input": 0, "attention_k_eq_v": True, "num_global_key_value_heads": 1}


def config(**changes: Any) -> Gemma4TextConfig:
    return Gemma4TextConfig(**SIZES | OWN | changes)


def read(**changes: Any) -> Architecture:
    return architecture(config().to_dict() | changes)


def test_layers_have_sizes_of_their_own() -> None:
    found = architecture(config(**E2B).to_dict())
    assert [(s.head_dim, s.num_kv_heads, s.intermediate_size) for s in found.layer_shapes] == [
        (16, 2, 64), (32, 2, 64), (16, 2, 64), (16, 2, 128), (32, 2, 128),
    ]  # fmt: skip
    assert found.layer_caches == (0, 1, 2, 2, 1) and found.layer_windows == (24, 0, 24, 24, 0)
    assert [found.qkv_sizes(layer) for layer in range(5)] == [(64, 32, 32), (128, 64, 64), (64, 32, 32), (64,), (128,)]
    assert found.linear_shapes()["layers.4.qkv"] == (128, 32) and found.linear_shapes()["layers.3.gate_up"] == (256, 32)


def test_a_shared_cache_is_kept_once_and_read_twice() -> None:
    found = architecture(config(**E2B).to_dict())
    assert [layer_kv_bytes(found, "bf16", layer) for layer in range(5)] == [128, 256, 128, 128, 256]
    assert kv_bytes_per_token(found, "bf16") == 128 + 256 + 128
    assert kv_bytes_per_token(found, "int8") == (128 + 256 + 128) // 2 + 3 * 2 * 2 * 4


def test_values_can_be_keys() -> None:
    found = architecture(config(**DENSE).to_dict())
    assert found.qkv_sizes(0) == (64, 32, 32) and found.qkv_sizes(1) == (128, 32)
    names = [[part.name.split(".")[-2] for part in checkpoint_tensors(found)[f"layers.{i}.qkv.weight"]] for i in (0, 1)]
    assert names == [["q_proj", "k_proj", "v_proj"], ["q_proj", "k_proj"]]
    assert "embed_per_layer" not in found.linear_shapes()


def test_published_configs_name_sizes_by_kind() -> None:
    """Before transformers 5.23 wrote a table of layers."""
    for own in (E2B, DENSE):
        written = config(**own).to_dict()
        published = {key: value for key, value in written.items() if key != "per_layer_config"}
        keys = {"global_head_dim": 32, "num_global_key_value_heads": own.get("num_global_key_value_heads")}
        assert architecture(published | keys) == architecture(written)


def test_a_part_of_a_head_turns_by_the_first_frequencies_of_the_whole() -> None:
    found = read()
    assert found.rope_of(0) == Rope(theta=1e4) and found.rope_of(1) == Rope(theta=1e6, scaling="proportional", rotary_dim=8)
    cos, sin = rope_tables(found.rope_of(1), 32, 64)
    whole_cos, whole_sin = rope_tables(Rope(theta=1e6), 32, 64)
    assert (cos[:, :4] == whole_cos[:, :4]).all() and (sin[:, :4] == whole_sin[:, :4]).all()
    assert (cos[:, 4:] == 1).all() and (sin[:, 4:] == 0).all()


def test_the_12b_has_no_inputs_of_layers() -> None:
    found = architecture(Gemma4UnifiedTextConfig(**SIZES).to_dict())
    assert (found.per_layer_size, found.layer_windows, found.layer_shapes[2].head_dim) == (0, (1024, 1024, 0), 512)


def test_experts_stand_beside_the_dense_network() -> None:
    found = read(**EXPERTS)
    assert found.moe == Moe(num_experts=6, num_experts_per_token=2, intermediate_size=48, expert_scales=True, beside_dense=True)
    shapes = {name.removeprefix("layers.1."): shape for name, shape in found.linear_shapes().items()}
    assert shapes["experts_gate_up"] == (6 * 96, 32) and shapes["experts_down"] == (6 * 32, 48)
    assert shapes["gate_up"] == (128, 32) and shapes["down"] == (32, 64)
    parts = {name: part for name, (part, *_) in checkpoint_tensors(found).items()}
    router, scale = (parts[f"layers.1.{name}"] for name in ("router_norm.weight", "router.expert_scales"))
    assert router.name == "model.layers.1.router.scale" and router.gain == Gain(0.0, 32**0.5)
    assert (scale.name, scale.shape) == ("model.layers.1.router.per_expert_scale", (6,))


def test_a_checkpoint_without_scales_of_its_experts_is_refused(tmp_path: Path) -> None:
    folder = save_folder(random_model(config(**EXPERTS)), tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    del state["model.layers.2.router.per_expert_scale"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"model\.layers\.2\.router\.per_expert_scale"):
        open_source(folder)


def test_keys_of_a_layer_that_reads_another_cache_have_no_effect(tmp_path: Path) -> None:
    """Published checkpoints may still have them."""
    folder = save_folder(random_model(config(**E2B)), tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    state["model.layers.4.self_attn.k_proj.weight"] = torch.ones(64, 32)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    (note,) = (note for note in open_source(folder).checkpoint.notes() if "k_proj" in note)
    assert note.endswith("the layer attends to another layer's keys and values")


def test_the_rest_refuses_such_layers_by_name() -> None:
    found = read()
    with pytest.raises(UntransformableModelError, match="has layers of several sizes"):
        refuse_what_cannot_fold(found)
    assert "differ in sizes" in str(Division(2).refusal(found, {}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"enable_moe_block": True}, "lacks num_experts, top_k_experts, moe_intermediate_size"),
        (EXPERTS | {"moe_intermediate_size": None}, "enable_moe_block needs .*; lacks moe_intermediate_size"),
        (EXPERTS | {"top_k_experts": 7}, "num_experts_per_token must be at most num_experts, got 7 and 6"),
        (EXPERTS | {"num_experts": 0}, "num_experts"),
        ({"num_kv_shared_layers": 4}, "num_kv_shared_layers must leave a layer of full_attention, got 4"),
        ({"num_kv_shared_layers": 9}, "num_kv_shared_layers must leave a layer of full_attention, got 9"),
        ({"vocab_size_per_layer_input": 50}, "vocab_size_per_layer_input must be vocab_size, got 50"),
        ({"hidden_activation": "silu"}, "hidden_activation must be 'gelu_pytorch_tanh', got 'silu'"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ({"layer_types": ["linear_attention"] * 5}, "layer_types"),
        ({"layer_types": LAYERS[:3]}, "must be empty or have one entry per layer"),
        ({"per_layer_config": {"1": {"hidden_size": 3}}}, "per_layer_config"),
        ({"per_layer_config": {"1": {"num_key_value_heads": 3}}}, "num_q_heads must be a multiple of num_kv_heads"),
        ({"per_layer_config": {"3": {"head_dim": 8}}, "num_kv_shared_layers": 2}, "layers 3 and 2 differ"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "rope_parameters"),
        (
            {"rope_parameters": {"sliding_attention": {"partial_rotary_factor": 0.5, "rope_theta": 1e4}}},
            "partial_rotary_factor",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_by_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        read(**changes)
