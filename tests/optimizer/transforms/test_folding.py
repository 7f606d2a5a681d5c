"""What transforms leave: transformers computes the same logits before and after, and refusals are typed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    GptOssConfig,
    GraniteMoeHybridConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

from artifacts.architecture import Architecture
from artifacts.layer_groups import kind_of
from optimizer.importers import Source
from optimizer.transforms import ChannelScales, Rotation, UntransformableModelError, scalable_groups, transformed
from optimizer.transforms.channel_scales import num_factors
from runtime.models import architecture
from tests.importers.random_models import CONFIGS, SIZES
from tests.optimizer.transforms.small_models import LATENT, layer_logits, logits, open_small

#: 28 = 2 (13 + 1) has a Hadamard matrix, 18 has none
ODD_SIZES = {**SIZES, "num_attention_heads": 2, "num_key_value_heads": 1}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MODELS: dict[str, PreTrainedConfig] = {
    **CONFIGS,
    "mixtral": MixtralConfig(**SIZES, num_local_experts=5),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **EXPERTS, head_dim=16, mlp_only_layers=[0], tie_word_embeddings=True),
    "deepseek_v2": DeepseekV2Config(**SIZES | LATENT | {"q_lora_rank": None}),
    "deepseek_v3": DeepseekV3Config(**SIZES | LATENT, n_group=4, topk_group=2),
    "hidden size 28": type(CONFIGS["llama"])(**ODD_SIZES | {"hidden_size": 28}, head_dim=12),
    "hidden size 18": type(CONFIGS["qwen2"])(**ODD_SIZES | {"hidden_size": 18}, head_dim=6),
}


def random_scales(a: Architecture, groups: list[str]) -> ChannelScales:
    generator = torch.Generator().manual_seed(3)
    return ChannelScales(
        {group: torch.randn(num_factors(a, group), generator=generator).mul_(1.5).exp_() for group in groups},
        {"transform": "test"},
    )


def assert_same_function(before: Source, after: Source, config: PreTrainedConfig) -> None:
    """Logits of a few units agree to the rounding of fp32 weights."""
    expected, found = logits(before, config), logits(after, config)
    assert float(expected.std()) > 0.3
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("name", MODELS)
def test_scales_of_all_groups_fold(name: str, tmp_path: Path) -> None:
    source = open_small(MODELS[name], tmp_path)
    scales = random_scales(source.architecture, scalable_groups(source.architecture))
    after = transformed(source, scales)
    assert after.architecture == source.architecture
    for group in scales.factors:
        assert not torch.allclose(after.tensor(f"{group}.weight"), source.tensor(f"{group}.weight"), rtol=0.1)
    assert_same_function(source, after, MODELS[name])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("qwen2", kind) for kind in ("qkv", "o", "gate_up", "down", "head")),
        *(("mixtral", f"experts_{k}") for k in ("gate_up", "down")),
        ("deepseek_v2", "q"),
        *(("deepseek_v3", kind) for kind in ("q_a", "q_b", "o")),
    ],
)
def test_scales_of_one_kind_fold_alone(name: str, kind: str, tmp_path: Path) -> None:
    """Were two folds wrong together, they could cancel."""
    source = open_small(MODELS[name], tmp_path)
    groups = [group for group in scalable_groups(source.architecture) if kind_of(group) == kind]
    assert groups
    assert_same_function(source, transformed(source, random_scales(source.architecture, groups)), MODELS[name])


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_a_rotation_folds(name: str, values: bool, tmp_path: Path) -> None:
    source = open_small(MODELS[name], tmp_path)
    rotation = Rotation.random(source.architecture, seed=1, values=values)
    after = transformed(source, rotation)
    assert not after.architecture.tie_embeddings
    assert rotation.record()["residual"] == ("orthogonal" if name == "hidden size 18" else "hadamard")
    assert_same_function(source, after, MODELS[name])


def test_transforms_follow_one_another(tmp_path: Path) -> None:
    source = open_small(MODELS["qwen3"], tmp_path)
    rotated = transformed(source, Rotation.random(source.architecture, seed=1))
    scaled = transformed(rotated, random_scales(rotated.architecture, scalable_groups(rotated.architecture)))
    assert "head" in rotated.architecture.linear_shapes()
    assert_same_function(source, scaled, MODELS["qwen3"])
    assert [record["transform"] for record in scaled.transforms()] == ["rotation", "test"]
    assert scaled.sha256() == source.sha256()


def test_a_rotation_spreads_an_outlier_channel(tmp_path: Path) -> None:
    source = open_small(MODELS["llama"], tmp_path)
    outlier = torch.ones(32)
    outlier[5] = 100
    spiky = transformed(source, ChannelScales({"layers.0.qkv": outlier}, {}))
    rotated = transformed(spiky, Rotation.random(source.architecture, seed=0))

    def peak_to_rms(source: Source) -> float:
        weight = source.tensor("layers.0.qkv.weight")
        return float((weight.abs().amax(1) / weight.square().mean(1).sqrt()).median())

    # One of 32 channels holds nearly all: its peak is sqrt(32) times the root mean square.
    assert peak_to_rms(spiky) > 5.5 and peak_to_rms(rotated) < 2.5


#: whose checkpoints store experts in another order: a network beside experts, and biases of experts, behind a clamp
OTHER_MIXTURES: dict[str, PreTrainedConfig] = {
    "granitemoehybrid": GraniteMoeHybridConfig(
        **SIZES, num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=64,
        layer_types=["attention"] * 3, position_embedding_type="rope", residual_multiplier=0.4, mamba_n_heads=2,
    ),
    "gpt_oss": GptOssConfig(**SIZES, head_dim=16, num_local_experts=4, num_experts_per_tok=2, swiglu_limit=1.0),
}  # fmt: skip


@pytest.mark.parametrize("transform", ["scales", "rotation"])
@pytest.mark.parametrize("name", OTHER_MIXTURES)
def test_what_stands_beside_experts_folds(name: str, transform: str, tmp_path: Path) -> None:
    source = open_small(OTHER_MIXTURES[name], tmp_path)
    groups = scalable_groups(source.architecture)
    assert "layers.1.gate_up" not in groups and ("layers.1.experts_down" in groups) == (name != "gpt_oss")
    made = random_scales(source.architecture, groups) if transform == "scales" else Rotation.random(source.architecture, seed=1)
    after, expected = transformed(source, made), layer_logits(source)
    assert not torch.allclose(after.tensor("layers.1.router.weight"), source.tensor("layers.1.router.weight"), rtol=0.1)
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(layer_logits(after), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_what_makes_and_reads_latents_is_left_alone(tmp_path: Path) -> None:
    """The latent's norm, what makes keys of it, and rows of keys: only columns of kv_a, and values, are another's."""
    source = open_small(MODELS["deepseek_v3"], tmp_path)
    groups = scalable_groups(source.architecture)
    assert "layers.0.kv_a" not in groups
    scales = random_scales(source.architecture, groups)
    after = transformed(source, scales)
    for name in ("kv_norm", "k_up"):
        assert torch.equal(after.tensor(f"layers.1.{name}.weight"), source.tensor(f"layers.1.{name}.weight"))
    ratios = after.tensor("layers.1.kv_a.weight") / source.tensor("layers.1.kv_a.weight")
    torch.testing.assert_close(ratios, scales.factors["layers.1.q_a"].expand_as(ratios))


@pytest.mark.parametrize(
    ("group", "factors", "message"),
    [
        ("embed", torch.ones(32), "qkv, q, q_a, q_b, o, gate_up, down, experts_gate_up, experts_down and head, got 'embed'"),
        ("head", torch.ones(32), "a tied head shares its columns"),
        ("layers.9.qkv", torch.ones(32), "got 'layers.9.qkv'"),
        ("layers.0.o", torch.ones(64), r"layers.0.o needs 32 finite positive factors, got \[64\]"),
        ("layers.0.qkv", torch.zeros(32), "finite positive factors"),
        ("layers.0.qkv", torch.full((32,), float("nan")), "finite positive factors"),
    ],
)
def test_scales_that_do_not_fit_are_refused(group: str, factors: torch.Tensor, message: str, tmp_path: Path) -> None:
    source = open_small(MODELS["qwen3"], tmp_path)
    with pytest.raises(UntransformableModelError, match=message):
        transformed(source, ChannelScales({group: factors}, {}))


def test_a_rotation_of_another_size_is_refused(tmp_path: Path) -> None:
    source = open_small(MODELS["llama"], tmp_path)
    with pytest.raises(ValueError, match=r"\(32, 8\), it was made for \(28, 12\)"):
        transformed(source, Rotation.random(architecture(MODELS["hidden size 28"].to_dict()), seed=0))
