"""Searched scales: never worse than none, the best of what was proposed, resumed at the layer, and outliers are rescued."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DeepseekV3Config, LlamaConfig, MixtralConfig, PreTrainedConfig, Qwen2Config

from artifacts.precision import Scheme
from optimizer.importers import Source
from optimizer.quantization import QuantizedMatrix, round_to_nearest
from optimizer.quantization.calibration import Calibration
from optimizer.quantization.static_activations import static_scale
from optimizer.transforms import AWQ, SMOOTHQUANT, ChannelScales, ScaleMethod, search_scales, transformed
from optimizer.transforms.channel_scales import num_factors, scalable_groups
from optimizer.transforms.scale_search import quantized_activations
from tests.importers.random_models import SIZES
from tests.optimizer.transforms.small_models import LATENT, open_small, transformers_model

WIDE = SIZES | {"hidden_size": 64, "num_hidden_layers": 2}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**WIDE),
    "qwen2, tied": Qwen2Config(**WIDE, tie_word_embeddings=True),
}
MIXTURE = MixtralConfig(**WIDE, num_local_experts=8)
LATENTS = DeepseekV3Config(**WIDE | LATENT, n_group=4, topk_group=2)
SCHEMES = ["int4-g32-sym", "int4-g32-asym", "int4-g32-sym-a8", "int8", "int8-a8", "fp8", "mxfp4"]
TOKENS = [torch.randint(0, 96, (48,), generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(6)]


def with_outliers(source: Source, num_outliers: int, size: float) -> Source:
    """The same function; a few channels before every linear carry inputs that are `size` times larger."""
    generator = torch.Generator().manual_seed(11)
    factors = {}
    for group in scalable_groups(source.architecture):
        if group.startswith("layers."):
            factors[group] = torch.ones(num_factors(source.architecture, group))
            factors[group][torch.randperm(len(factors[group]), generator=generator)[:num_outliers]] = 1 / size
    return transformed(source, ChannelScales(factors, {}))


def search(source: Source, scheme: str, method: ScaleMethod, folder: Path, *groups: str) -> ChannelScales:
    """Of all groups, if none are named."""
    plan = {group: Scheme.parse(scheme) for group in groups or source.architecture.linear_shapes()}
    return search_scales(source, Calibration(source, TOKENS, folder / "inputs"), plan, method, folder / method.name)


def choices(scales: ChannelScales) -> dict[str, dict[str, float]]:
    found = scales.record()["choices"]
    assert isinstance(found, dict)
    return found


@pytest.fixture(params=CONFIGS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return with_outliers(open_small(CONFIGS[request.param], tmp_path / "model"), 2, 8.0)


@pytest.mark.parametrize("method", [AWQ, SMOOTHQUANT], ids=lambda method: method.name)
@pytest.mark.parametrize(
    "scheme_name", ["int4-g32-sym", "int4-g32-asym", "int4-g32-sym-a8", "int8-a8", "fp8", "fp8-tensor", "nvfp4"]
)
def test_the_loss_is_that_of_the_transformed_group_and_never_worse_than_none(
    source: Source, scheme_name: str, method: ScaleMethod, tmp_path: Path
) -> None:
    scheme, groups = Scheme.parse(scheme_name), ("layers.0.qkv", "layers.1.o", "layers.1.down")  # none divides another's rows
    calibration = Calibration(source, TOKENS, tmp_path / "inputs")
    scales = search(source, scheme_name, method, tmp_path, *groups)
    for group in groups:
        statistics, name = calibration.statistics(group), f"{group}.weight"
        exact = source.tensor(name).double()
        chosen = choices(scales)[group]
        assert chosen["loss"] <= chosen["unscaled_loss"]
        for stated, candidate in (("loss", transformed(source, scales)), ("unscaled_loss", source)):
            factors = candidate.tensor(name)[0].double() / exact[0]
            rounded = torch.from_numpy(round_to_nearest(group, candidate.tensor(name), scheme).dequantize()).double()
            if scheme.quantized_activations:
                rows = statistics.sample.double()
                static = static_scale(statistics.max_abs / factors.float())
                output = quantized_activations((rows / factors).float(), scheme, static).double() @ rounded.T
                loss = ((output - rows @ exact.T).square().sum(dim=1) / (rows @ exact.T).square().sum(dim=1)).mean()
            else:
                difference = rounded / factors - exact
                loss = torch.trace(difference @ statistics.hessian.double() @ difference.T)
            assert chosen[stated] == pytest.approx(float(loss), rel=1e-3)


@pytest.mark.parametrize("scheme_name", ["int8-a8", "fp8", "fp8-block"])
def test_activations_are_those_of_an_independent_rounding(scheme_name: str) -> None:
    rows = torch.randn(5, 192, generator=torch.Generator().manual_seed(1)) * torch.logspace(-2, 2, 192)
    found = quantized_activations(rows, Scheme.parse(scheme_name)).numpy()
    width = 128 if scheme_name == "fp8-block" else 192
    for row, columns in ((row, slice(start, start + width)) for row in range(5) for start in range(0, 192, width)):
        x = rows.numpy()[row, columns]
        scale = np.abs(x).max() / np.float32(127 if scheme_name == "int8-a8" else 448)
        codes = np.rint(x / scale) if scheme_name == "int8-a8" else (x / scale).astype(ml_dtypes.float8_e4m3fn)
        np.testing.assert_allclose(found[row, columns], codes.astype(np.float32) * scale, rtol=1e-6)


@pytest.mark.parametrize("method", [AWQ, SMOOTHQUANT], ids=lambda method: method.name)
def test_queries_and_latents_have_one_set_of_factors(method: ScaleMethod, tmp_path: Path) -> None:
    """Its loss is that of both, whose outputs stand beside each other."""
    source, scheme = with_outliers(open_small(LATENTS, tmp_path / "model"), 2, 8.0), Scheme.parse("int4-g32-sym")
    scales = search(source, scheme.name, method, tmp_path, "layers.1.q_a")
    found, after = choices(scales)["layers.1.q_a"], transformed(source, scales)
    loss = 0.0
    for group in ("layers.1.q_a", "layers.1.kv_a"):
        rounded = torch.from_numpy(round_to_nearest(group, after.tensor(f"{group}.weight"), scheme).dequantize())
        difference = (rounded / scales.factors["layers.1.q_a"] - source.tensor(f"{group}.weight")).double()
        hessian = Calibration(source, TOKENS, tmp_path / "inputs").statistics(group).hessian.double()
        loss += float(torch.trace(difference @ hessian @ difference.T))
    assert found["loss"] == pytest.approx(loss, rel=1e-3)
    assert found["loss"] < 0.5 * found["unscaled_loss"]


def test_groups_that_are_not_quantized_are_left_alone(source: Source, tmp_path: Path) -> None:
    plan = {"embed": Scheme.parse("int8"), "layers.0.qkv": Scheme.parse("bf16"), "layers.1.o": Scheme.parse("int8")}
    scales = search_scales(source, Calibration(source, TOKENS, tmp_path / "a"), plan, AWQ, tmp_path / "b")
    assert set(scales.factors) == {"layers.1.o"}


def test_factors_whose_scales_cannot_be_stored_are_not_chosen(source: Source, tmp_path: Path) -> None:
    """int4 scales are fp16."""
    wild = ScaleMethod("wild", lambda channels: [({"exponent": 40}, torch.logspace(-20, 20, len(channels.mean_input)))])
    scales = search(source, "int4-g32-sym", wild, tmp_path, "layers.0.qkv")
    assert torch.equal(scales.factors["layers.0.qkv"], torch.ones(64))


class Killed(BaseException):
    """As a signal would end it."""


def test_a_killed_search_goes_on_at_its_layer(source: Source, tmp_path: Path) -> None:
    whole = search(source, "int4-g32-sym", AWQ, tmp_path)
    calibration = Calibration(source, TOKENS, tmp_path / "inputs")
    plan = {group: Scheme.parse("int4-g32-sym") for group in source.architecture.linear_shapes()}
    rounded: Counter[str] = Counter()

    def dies_in_layer_1(name: str, weight: Tensor, scheme: Scheme) -> QuantizedMatrix:
        if name == "layers.1.down":
            raise Killed
        return round_to_nearest(name, weight, scheme)

    def counting(name: str, weight: Tensor, scheme: Scheme) -> QuantizedMatrix:
        rounded[name.rpartition(".")[0]] += 1
        return round_to_nearest(name, weight, scheme)

    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        search_scales(source, calibration, plan, AWQ, folder, quantize=dies_in_layer_1)
    resumed = search_scales(source, calibration, plan, AWQ, folder, quantize=counting)
    assert set(rounded) == {"layers.1"} | ({""} if "head" in plan else set())
    assert resumed.record() == whole.record()
    assert all(torch.equal(resumed.factors[group], whole.factors[group]) for group in whole.factors)


def test_results_of_another_search_are_not_taken_up(source: Source, tmp_path: Path) -> None:
    search(source, "int8", AWQ, tmp_path, "layers.0.o")
    with pytest.raises(ValueError, match=r"layers.0.safetensors holds that of .*int8.*asked for is .*int4-g32-sym"):
        search(source, "int4-g32-sym", AWQ, tmp_path, "layers.0.o")


def kl_of_rounding(source: Source, config: PreTrainedConfig, scheme: Scheme) -> float:
    """Mean KL of transformers' logits with every linear of the layers quantized, activations too where the scheme does."""
    exact, rough = transformers_model(source, config), transformers_model(source, config)
    for name, module in rough.model.layers.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith("kv_b_proj"):  # which is in no plan
            matrix = round_to_nearest(name, module.weight.detach().float(), scheme)
            module.weight.data = torch.from_numpy(matrix.dequantize()).double()
            if scheme.quantized_activations:
                module.register_forward_pre_hook(
                    lambda module, inputs: (quantized_activations(inputs[0][0].float(), scheme).double()[None],)
                )
        elif name.endswith(".experts"):  # whose matrices are one parameter each
            assert not scheme.quantized_activations
            for parameter in module.parameters():
                matrix = round_to_nearest(name, parameter.detach().flatten(0, 1).float(), scheme)
                parameter.data = torch.from_numpy(matrix.dequantize()).double().view_as(parameter)
    with torch.no_grad():
        both = [[model(torch.tensor([ids])).logits[0].log_softmax(1) for ids in TOKENS] for model in (exact, rough)]
    return float(torch.cat([(p.exp() * (p - q)).sum(1) for p, q in zip(*both, strict=True)]).mean())


def test_experts_have_scales_of_their_own(tmp_path: Path) -> None:
    """Each expert's down by its own inputs; one that no token reaches stays as it is."""
    source = with_outliers(open_small(MIXTURE, tmp_path / "model"), 6, 8.0)
    calibration = Calibration(source, TOKENS[:1], tmp_path / "few")
    plan = dict.fromkeys(source.architecture.linear_shapes(), Scheme.parse("int4-g32-sym"))
    scales = search_scales(source, calibration, plan, AWQ, tmp_path / "scales")
    for layer in range(2):
        hits, factors = calibration.hits(layer), scales.factors[f"layers.{layer}.experts_down"].view(8, -1)
        found = choices(scales)[f"layers.{layer}.experts_down"]
        assert found["loss"] < 0.9 * found["unscaled_loss"], found
        assert found["scaled_experts"] == int((factors != 1).any(dim=1).sum()) <= int((hits > 0).sum())
        assert bool((factors[hits == 0] == 1).all())
        reached = factors[hits > 0]
        assert not torch.allclose(reached[0], reached[1])


@pytest.mark.parametrize(
    ("name", "method", "scheme_name", "left"),
    [
        ("llama", AWQ, "int4-g32-sym", 0.2),
        ("llama", AWQ, "int4-g32-asym", 0.2),
        ("llama", SMOOTHQUANT, "int8-a8", 0.2),
        # Tokens near a tie go to other experts, and what an expert's channels need rests on the few tokens that went to it.
        ("mixtral", AWQ, "int4-g32-sym", 0.5),
        ("deepseek_v3", AWQ, "int4-g32-sym", 0.3),
    ],
)
def test_outlier_channels_are_rescued(name: str, method: ScaleMethod, scheme_name: str, left: float, tmp_path: Path) -> None:
    config, scheme = {**CONFIGS, "mixtral": MIXTURE, "deepseek_v3": LATENTS}[name], Scheme.parse(scheme_name)
    even = open_small(config, tmp_path / "model")
    source = with_outliers(even, 3, 60.0)
    scales = search(source, scheme_name, method, tmp_path)
    before, after = (kl_of_rounding(each, config, scheme) for each in (source, transformed(source, scales)))
    without_outliers = kl_of_rounding(even, config, scheme)
    assert after - without_outliers < left * (before - without_outliers), (before, after, without_outliers)
