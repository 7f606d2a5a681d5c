"""What transforms leave: transformers computes the same logits before and after, and refusals are typed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import DeepseekV2Config, MixtralConfig, PreTrainedConfig

from artifacts.architecture import Architecture
from optimizer.importers import Source
from optimizer.transforms import ChannelScales, Rotation, UntransformableModelError, transformed
from optimizer.transforms.channel_scales import num_factors
from runtime.models import architecture
from tests.importers.random_models import CONFIGS, SIZES
from tests.optimizer.transforms.small_models import logits, open_small

#: 28 = 2 (13 + 1) has a Hadamard matrix, 18 has none
ODD_SIZES = {**SIZES, "num_attention_heads": 2, "num_key_value_heads": 1}
MODELS: dict[str, PreTrainedConfig] = {
    **CONFIGS,
    "hidden size 28": type(CONFIGS["llama"])(**ODD_SIZES | {"hidden_size": 28}, head_dim=12),
    "hidden size 18": type(CONFIGS["qwen2"])(**ODD_SIZES | {"hidden_size": 18}, head_dim=6),
}


def scalable_groups(a: Architecture) -> list[str]:
    return [name for name in a.linear_shapes() if name != "embed"]


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


@pytest.mark.parametrize("kind", ["qkv", "o", "gate_up", "down", "head"])
def test_scales_of_one_kind_fold_alone(kind: str, tmp_path: Path) -> None:
    """Were two folds wrong together, they could cancel."""
    source = open_small(MODELS["qwen2"], tmp_path)
    groups = [group for group in scalable_groups(source.architecture) if group.endswith(kind)]
    assert_same_function(source, transformed(source, random_scales(source.architecture, groups)), MODELS["qwen2"])


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


MIXTURE = MixtralConfig(**SIZES, num_local_experts=2).to_dict()
LATENT = DeepseekV2Config(**SIZES | {"num_key_value_heads": 4}, first_k_dense_replace=3, num_experts_per_tok=2).to_dict()


@pytest.mark.parametrize(("config", "what"), [(MIXTURE, "mixture of experts"), (LATENT, "latent attention|mixture")])
def test_mixtures_and_latent_attention_are_refused(config: dict[str, object], what: str, tmp_path: Path) -> None:
    source = open_small(CONFIGS["llama"], tmp_path)
    object.__setattr__(source, "architecture", architecture(config))
    with pytest.raises(UntransformableModelError, match=what):
        transformed(source, ChannelScales({}, {}))


@pytest.mark.parametrize(
    ("group", "factors", "message"),
    [
        ("embed", torch.ones(32), "qkv, o, gate_up, down, experts_gate_up, experts_down and head, got 'embed'"),
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
