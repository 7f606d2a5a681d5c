"""Experts in calibration, against hooks on transformers' own; what GPTQ and clipping make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import Gemma4TextConfig, GptOssConfig, MixtralConfig, PreTrainedConfig, PreTrainedModel, Qwen3MoeConfig

from artifacts.precision import Scheme
from optimizer.importers import Source, open_source
from optimizer.quantization import Calibration, Method, clipped_rounding_method, gptq_method, round_to_nearest
from optimizer.weights.rare_experts import divided, rare_experts
from tests.importers.random_models import SIZES, random_model, save_folder

CONFIGS: dict[str, PreTrainedConfig] = {
    "mixtral": MixtralConfig(**SIZES, num_local_experts=5),
    "qwen3_moe": Qwen3MoeConfig(
        **SIZES, head_dim=16, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32, mlp_only_layers=[0]
    ),
}
SEQUENCES = [torch.randint(0, 96, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (40, 25, 33)]


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A model whose expert 1 of the last layer is never chosen."""
    model = random_model(CONFIGS[request.param]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 2 * parameter.shape[-1] ** -0.5
        # Of a, -a, b and -b two are above the 0 of the other experts, whatever the states.
        gate = model.model.layers[-1].mlp.gate.weight
        gate[[2, 4]] = -gate[[0, 3]]
        gate[[1, *range(5, len(gate))]] = 0
    return model


@pytest.fixture
def source(model: PreTrainedModel, tmp_path: Path) -> Source:
    return open_source(save_folder(model, tmp_path / "model"))


def heard(model: PreTrainedModel) -> tuple[list[list[tuple[torch.Tensor, torch.Tensor]]], torch.Tensor]:
    """Of each layer with experts, sequence by sequence: states and chosen experts; and the rows that the head reads."""
    places = (layer if hasattr(layer, "experts") else layer.mlp for layer in model.model.layers)
    layers = [place.experts for place in places if hasattr(place, "experts")]
    calls: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in layers]
    heads: list[torch.Tensor] = []
    for found, experts in zip(calls, layers, strict=True):
        experts.register_forward_pre_hook(lambda module, inputs, found=found: found.append((inputs[0], inputs[1])))
    model.lm_head.register_forward_pre_hook(lambda module, inputs: heads.append(inputs[0][0]))
    with torch.inference_mode():
        for ids in SEQUENCES:
            model(torch.tensor([ids]))
    return calls, torch.cat(heads)


def test_statistics_are_those_of_transformers_experts(model: PreTrainedModel, source: Source, tmp_path: Path) -> None:
    calibration = Calibration(source, SEQUENCES, tmp_path / "calibration")
    calls, heads = heard(model)
    first = len(model.model.layers) - len(calls)
    for i, sequences in enumerate(calls, first):
        states, chosen = (torch.cat(parts) for parts in zip(*sequences, strict=True))
        agree(calibration.statistics(f"layers.{i}.experts_gate_up").hessian, states)
        weights = model.model.layers[i].mlp.experts.gate_up_proj
        parts = calibration.parts(f"layers.{i}.experts_down")
        assert len(parts) == len(weights)
        for expert, part in enumerate(parts):
            rows = states[(chosen == expert).any(dim=1)]
            gate, up = functional.linear(rows, weights[expert]).chunk(2, dim=1)
            assert calibration.hits(i)[expert] == len(rows)
            assert len(rows) or i == first + len(calls) - 1
            if len(rows):
                agree(calibration.statistics(part).hessian, functional.silu(gate) * up)
    assert calibration.hits(i)[1] == 0
    # What the last layer gives is what the head reads: tokens went on through the same experts, with the same weights.
    agree(calibration.statistics("head").hessian, heads)


def test_experts_that_hardly_any_token_went_to_are_named(model: PreTrainedModel, source: Source, tmp_path: Path) -> None:
    calibration, last = Calibration(source, SEQUENCES, tmp_path / "calibration"), source.architecture.num_layers - 1
    found = rare_experts(calibration, last + 1, 0.1)[-1]
    assert (found.layer, found.hits[1], found.num_pairs) == (last, 0, 2 * sum(map(len, SEQUENCES)))
    assert str(found).startswith(f"layers.{last}: ") and "got hardly any" in str(found) and ": 1 (0)" in str(found)
    # Every one with less than its even share, of which there are always some.
    hits = calibration.hits(last)
    assert rare_experts(calibration, last + 1, 0.999)[-1].hits == {
        expert: hits[expert] for expert in range(len(hits)) if hits[expert] < hits.double().mean()
    }
    assert not rare_experts(calibration, last + 1, 0)


@pytest.mark.parametrize("make", [gptq_method, clipped_rounding_method])
def test_experts_that_stand_apart_have_the_codes_that_they_had(
    model: PreTrainedModel, source: Source, tmp_path: Path, make: Callable[[Calibration], Method]
) -> None:
    """Statistics are of experts, wherever these stand."""
    calibration, scheme = Calibration(source, SEQUENCES, tmp_path / "calibration"), Scheme.parse("int4-g32-sym")
    last = source.architecture.num_layers - 1
    apart = divided(source, rare_experts(calibration, last + 1, 0.1))
    method, of_apart = make(calibration).quantize, make(calibration.divided(apart.architecture)).quantize
    for kind in ("experts_gate_up", "experts_down"):
        group = f"layers.{last}.{kind}"
        every = method(group, source.tensor(f"{group}.weight").float(), scheme).dequantize()
        matrices = every.reshape(len(calibration.hits(last)), -1, every.shape[1])
        groups = apart.architecture.expert_groups(group)
        assert len(groups) == 2 and sum(map(len, groups.values())) == len(matrices)
        for part, experts in groups.items():
            found = of_apart(part, apart.tensor(f"{part}.weight").float(), scheme).dequantize()
            assert found.tobytes() == matrices[list(experts)].tobytes()


def test_sinks_and_clamped_experts_are_transformers(tmp_path: Path) -> None:
    """gpt-oss: what o, an expert and the head read, of transformers' own modules."""
    model = random_model(
        GptOssConfig(**SIZES, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=16, swiglu_limit=1.0)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 2 * parameter.shape[-1] ** -0.5
    attention_of_last: list[torch.Tensor] = []
    last = model.model.layers[-1]
    last.self_attn.o_proj.register_forward_pre_hook(lambda module, inputs: attention_of_last.append(inputs[0][0]))
    calls, head = heard(model)
    attended, states, chosen = torch.cat(attention_of_last), *(torch.cat(parts) for parts in zip(*calls[-1], strict=True))
    calibration = Calibration(open_source(save_folder(model, tmp_path / "model")), SEQUENCES, tmp_path / "calibration")
    agree(calibration.statistics("layers.2.o").hessian, attended)
    agree(calibration.statistics("layers.2.experts_gate_up").hessian, states)
    experts = last.mlp.experts
    for expert, part in enumerate(calibration.parts("layers.2.experts_down")):
        own = states[(chosen == expert).any(dim=1)]
        gate_up = own @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
        agree(calibration.statistics(part).hessian, experts._apply_gate(gate_up))
    agree(calibration.statistics("head").hessian, head)


@pytest.mark.slow
def test_experts_beside_a_dense_network_are_transformers(tmp_path: Path) -> None:
    """Gemma 4: what experts, the network beside them and the head read, of transformers' own modules."""
    experts = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
    other = {"head_dim": 16, "global_head_dim": 32, "hidden_size_per_layer_input": 0, "tie_word_embeddings": False}
    model = random_model(Gemma4TextConfig(**SIZES | experts | other)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 2 * parameter.shape[-1] ** -0.5
    last, dense = model.model.layers[-1], list[torch.Tensor]()
    last.mlp.down_proj.register_forward_pre_hook(lambda module, inputs: dense.append(inputs[0][0]))
    calls, head = heard(model)
    states, chosen = (torch.cat(parts) for parts in zip(*calls[-1], strict=True))
    calibration = Calibration(open_source(save_folder(model, tmp_path / "model")), SEQUENCES, tmp_path / "calibration")
    agree(calibration.statistics("layers.2.down").hessian, torch.cat(dense))
    agree(calibration.statistics("layers.2.experts_gate_up").hessian, states)
    for expert, part in enumerate(calibration.parts("layers.2.experts_down")):
        own = states[(chosen == expert).any(dim=1)]
        gate, up = (own @ last.experts.gate_up_proj[expert].T).chunk(2, dim=1)
        agree(calibration.statistics(part).hessian, functional.gelu(gate, approximate="tanh") * up)
    agree(calibration.statistics("head").hessian, head)


def agree(hessian: torch.Tensor, rows: torch.Tensor) -> None:
    rows = rows.detach().double()
    expected = rows.T @ rows / len(rows)
    assert (hessian - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("make", [gptq_method, clipped_rounding_method])
def test_each_expert_is_rounded_by_its_own_inputs(
    model: PreTrainedModel, source: Source, tmp_path: Path, make: Callable[[Calibration], Method]
) -> None:
    calibration, scheme = Calibration(source, SEQUENCES, tmp_path / "calibration"), Scheme.parse("int4-g32-sym")
    group = f"layers.{source.architecture.num_layers - 1}.experts_down"
    weight = source.tensor(f"{group}.weight").float()
    found, plain = make(calibration).quantize(group, weight, scheme), round_to_nearest(group, weight, scheme)
    parts = calibration.parts(group)
    shares = (torch.from_numpy(matrix.dequantize() - weight.numpy()).chunk(len(parts)) for matrix in (found, plain))
    for part, ours, nearest in zip(parts, *shares, strict=True):
        statistics = calibration.statistics(part)
        if statistics.hessian.any():
            assert statistics.loss(ours) < statistics.loss(nearest)
        else:
            assert torch.equal(ours, nearest)
