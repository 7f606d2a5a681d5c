"""gpt-oss as transformers reads it: what its config says, and which tensors it has.

Its logits are compared in tests/runtime, what calibration hears in tests/optimizer/quantization/test_calibrated_experts.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GptOssConfig

from optimizer.importers import open_source
from runtime.models import UnsupportedModel, architecture
from tests.importers.random_models import SIZES, random_model, save_folder

CONFIG = GptOssConfig(**SIZES, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=24)
#: of openai/gpt-oss-20b's config.json, what says more than the defaults
GPT_OSS_20B = {
    "model_type": "gpt_oss",
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "experts_per_token": 4,
    "initial_context_length": 4096,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "swiglu_limit": 7.0,
    "attention_bias": True,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


def test_a_config_says_all_that_the_network_needs() -> None:
    found = architecture(GPT_OSS_20B)
    assert found.attention_sinks and found.qkv_bias and found.output_bias and not found.tie_embeddings
    assert (found.head_dim, found.num_q_heads, found.num_kv_heads) == (64, 64, 8)
    assert (found.activation, found.activation_limit, found.activation_slope) == ("clamped_silu", 7.0, 1.702)
    assert found.layer_windows == (128, 0) * 12
    assert (found.rope.scaling, found.rope.factor, found.rope.theta, found.rope.truncate) == ("yarn", 32.0, 150000.0, False)
    assert found.moe is not None and found.moe.normalized and found.moe.router_bias and found.moe.expert_biases
    assert (found.moe.num_experts, found.moe.num_experts_per_token, found.moe.intermediate_size) == (32, 4, 2880)
    # 20.9 billion parameters are what its card says
    sizes = [*found.linear_shapes().values(), *found.float_shapes().values()]
    assert sum(int(np.prod(shape)) for shape in sizes) == 20_914_757_184


def test_absent_keys_have_transformers_defaults() -> None:
    written = {"model_type": "gpt_oss"} | {key: GPT_OSS_20B[key] for key in list(GPT_OSS_20B)[1:6]}
    assert architecture(written) == architecture(GptOssConfig(**written).to_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu'"),
        ({"layer_types": ["chunked_attention"] * 3}, "layer_types"),
        ({"swiglu_limit": 0.0}, "swiglu_limit"),
        ({"num_experts_per_tok": 5}, "num_experts_per_token must be at most num_experts"),
    ],
)
def test_other_networks_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        architecture(CONFIG.to_dict() | changes)


def test_every_tensor_is_the_modules(tmp_path: Path) -> None:
    model = random_model(CONFIG)
    state, source = model.state_dict(), open_source(save_folder(model, tmp_path))
    a, ours, theirs = source.architecture, "layers.1", "model.layers.1"
    attention, experts = f"{theirs}.self_attn", f"{theirs}.mlp.experts"
    assert torch.equal(source.tensor(f"{ours}.sinks"), state[f"{attention}.sinks"])
    assert torch.equal(source.tensor(f"{ours}.o.bias"), state[f"{attention}.o_proj.bias"])
    biases = torch.cat([state[f"{attention}.{name}_proj.bias"] for name in "qkv"])
    assert torch.equal(source.tensor(f"{ours}.qkv.bias"), biases)
    assert torch.equal(source.tensor(f"{ours}.router.weight"), state[f"{theirs}.mlp.router.weight"])
    assert torch.equal(source.tensor(f"{ours}.router.logit_bias"), state[f"{theirs}.mlp.router.bias"])
    stored = state[f"{experts}.gate_up_proj"].transpose(1, 2), state[f"{experts}.gate_up_proj_bias"][..., None]
    for name, rows in zip(("weight", "bias"), stored, strict=True):
        ordered = torch.cat([rows[:, ::2], rows[:, 1::2]], dim=1).flatten(0, 1).squeeze(1)
        assert torch.equal(source.tensor(f"{ours}.experts_gate_up.{name}"), ordered)
    assert torch.equal(
        source.tensor(f"{ours}.experts_down.weight"), state[f"{experts}.down_proj"].transpose(1, 2).flatten(0, 1)
    )
    assert torch.equal(source.tensor(f"{ours}.experts_down.bias"), state[f"{experts}.down_proj_bias"].flatten())
    shapes = {f"{group}.weight": shape for group, shape in a.linear_shapes().items()} | a.float_shapes()
    assert {name: tuple(source.tensor(name).shape) for name in shapes} == shapes
