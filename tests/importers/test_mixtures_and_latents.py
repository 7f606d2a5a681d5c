"""Families with experts or latent attention: tensors are transformers' own, configs mean what its modules make of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    GraniteMoeConfig,
    GraniteMoeHybridConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

from artifacts.manifest import Limits
from optimizer.importers import ShapeMismatch, open_source
from runtime.decoder import lay_out
from runtime.models import UnsupportedModel, architecture, checkpoint_tensors
from tests.importers.random_models import SIZES, random_model, save_folder

EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = SIZES | EXPERTS | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}  # fmt: skip
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "mscale": 0.7,
    "mscale_all_dim": 0.9,
}
HYBRID = {"layer_types": ["full_attention"] * 3, "shared_intermediate_size": 48, "mamba_n_heads": 4}
CONFIGS: dict[str, PreTrainedConfig] = {
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4),
    "olmoe": OlmoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2),
    "granitemoe": GraniteMoeConfig(**SIZES, num_local_experts=4),
    "granitemoehybrid": GraniteMoeHybridConfig(**SIZES | HYBRID, num_local_experts=4),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **EXPERTS, head_dim=16, num_experts=6, mlp_only_layers=[0]),
    "deepseek_v2": DeepseekV2Config(**LATENT, topk_method="group_limited_greedy", n_group=4, topk_group=2),
    "deepseek_v2, lite": DeepseekV2Config(**LATENT | {"q_lora_rank": None}, rope_parameters=YARN),
    "deepseek_v3": DeepseekV3Config(**LATENT, n_group=4, topk_group=2, rope_parameters=YARN),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tensor_is_the_modules(name: str, tmp_path: Path) -> None:
    """transformers holds experts as one tensor of three axes, whatever the file calls each."""
    model = random_model(CONFIGS[name])
    state, source = dict(model.state_dict()), open_source(save_folder(model, tmp_path))
    a = source.architecture
    layer = a.num_layers - 1
    ours, theirs = f"layers.{layer}", f"model.layers.{layer}"
    assert a.moe is not None
    place, router = ("block_sparse_moe", "router") if name.startswith("granitemoe") else ("mlp", "gate")
    for group, parameter in (("experts_gate_up", "gate_up_proj"), ("experts_down", "down_proj")):
        expected = state[f"{theirs}.{place}.experts.{parameter}"]
        assert torch.equal(source.tensor(f"{ours}.{group}.weight"), expected.flatten(0, 1))
    assert torch.equal(source.tensor(f"{ours}.router.weight"), state[f"{theirs}.{place}.{router}.weight"])
    if a.mla is not None:
        # A key of a head is k_up of the latent, from the left; a value is the latent times v_up.
        up = state[f"{theirs}.self_attn.kv_b_proj.weight"]
        latent = torch.randn(a.mla.kv_lora_rank)
        both = (up @ latent).view(a.num_q_heads, -1)
        assert torch.allclose(source.tensor(f"{ours}.k_up.weight") @ latent, both[:, : a.mla.nope_head_dim], atol=1e-4)
        assert torch.allclose(latent @ source.tensor(f"{ours}.v_up.weight"), both[:, a.mla.nope_head_dim :], atol=1e-4)
        scaling = model.model.layers[layer].self_attn.scaling
        assert a.head_dim**-0.5 * a.mla.score_factor == pytest.approx(scaling)
    shapes = {f"{group}.weight": shape for group, shape in a.linear_shapes().items()} | a.float_shapes()
    assert {tensor: tuple(source.tensor(tensor).shape) for tensor in shapes} == shapes


def test_granite_4_without_experts_is_dense() -> None:
    """ibm-granite/granite-4.0-350m: kinds of layers by their older name, and a size of experts that it does not have."""
    config = CONFIGS["granitemoehybrid"].to_dict()
    config |= {"layer_types": ["attention"] * 3, "num_local_experts": 0, "num_experts_per_tok": 0}
    found = architecture(config)
    assert found.moe is None and found.intermediate_size == 48
    assert found.rope.rotary_dim == 0 and architecture(config | {"position_embedding_type": "rope"}).rope.rotary_dim is None
    (part, *others) = checkpoint_tensors(found)["layers.1.gate_up.weight"]
    assert (part.name, part.shape, others) == ("model.layers.1.shared_mlp.input_linear.weight", (96, 32), [])


def test_a_network_of_another_size_is_named(tmp_path: Path) -> None:
    folder = save_folder(random_model(CONFIGS["granitemoehybrid"]), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"shared_intermediate_size": 40}))
    with pytest.raises(ShapeMismatch, match=r"shared_mlp\.\w+_linear\.weight .*shared_intermediate_size.* make it"):
        open_source(folder)


def test_absent_keys_have_transformers_defaults() -> None:
    for config in (MixtralConfig, Qwen3MoeConfig, OlmoeConfig, GraniteMoeConfig, DeepseekV2Config, DeepseekV3Config):
        written = {**SIZES, "num_key_value_heads": 4, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5}
        written |= {"model_type": config.model_type, "topk_group": 1, "n_group": 1}
        assert architecture(written) == architecture(config(**written).to_dict())


REFUSED: dict[str, tuple[str, dict[str, object], str]] = {
    "recurrent layers": (
        "granitemoehybrid",
        {"layer_types": ["full_attention", "linear_attention", "full_attention"]},
        r"granitemoehybrid is not served: it has layers with a recurrent state .* instead: a granitemoehybrid with attention",
    ),
    "fewer types than layers": ("granitemoehybrid", {"layer_types": ["attention"]}, "recurrent state"),
    "no expert for a token": ("granitemoehybrid", {"num_experts_per_tok": 0}, "num_experts_per_token"),
    "every other layer": ("qwen3_moe", {"decoder_sparse_step": 2}, "dense layers must come first"),
    "dense layers behind": ("qwen3_moe", {"mlp_only_layers": [2]}, r"dense layers must come first.*\[2\]"),
    "biased latents": ("deepseek_v3", {"attention_bias": True}, "attention_bias must be false"),
    "fewer keys": ("deepseek_v3", {"num_key_value_heads": 2}, "num_key_value_heads must be num_attention_heads"),
    "halves": ("deepseek_v3", {"rope_interleave": False}, "rope_interleave"),
    "method": ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method"),
    "normalized": ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob"),
    "frequency": ("deepseek_v2", {"moe_layer_freq": 2}, "moe_layer_freq"),
    "too many experts per token": ("mixtral", {"num_experts_per_tok": 9}, "num_experts_per_token must be at most num_experts"),
    "clipped": ("olmoe", {"clip_qkv": 8.0}, "clip_qkv must be null"),
    "groups": ("deepseek_v3", {"n_group": 3}, "num_groups must divide num_experts"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    name, changes, message = REFUSED[kind]
    with pytest.raises(UnsupportedModel, match=message):
        architecture(CONFIGS[name].to_dict() | changes)


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3"])
def test_cpus_keep_latents_in_floats(name: str) -> None:
    described = architecture(CONFIGS[name].to_dict())
    room = Limits(kv_block_size=16, num_kv_blocks=4, max_num_seqs=1, max_num_batched_tokens=16, max_model_len=32, num_threads=1)
    with pytest.raises(UnsupportedModel, match="a cache of latents in fp32, bf16, not in int8"):
        lay_out(described, {}, "int8", {}, room)
