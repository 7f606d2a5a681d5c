"""Calibration statistics against hooks on transformers' own models, and what a killed run leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from optimizer.importers import Source, open_source
from optimizer.quantization.calibration import Calibration
from tests.importers.random_models import SIZES, random_model, save_folder

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES, attention_bias=True, rope_parameters=LLAMA3),
    "qwen2": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=1, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
}
MODULES = {"self_attn.q_proj": "qkv", "self_attn.o_proj": "o", "mlp.up_proj": "gate_up", "mlp.down_proj": "down"}
SEQUENCES = [
    torch.randint(0, 96, (length,), generator=torch.Generator().manual_seed(length)).tolist() for length in (40, 25, 33)
]


def moderate(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter *= parameter.shape[1] ** -0.5
    return model.eval()


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return moderate(random_model(CONFIGS[request.param]))


@pytest.fixture
def source(model: PreTrainedModel, tmp_path: Path) -> Source:
    return open_source(save_folder(model, tmp_path / "model"))


def hooked_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Layer group -> every row that transformers' module of that group sees, fp64."""
    rows: dict[str, list[torch.Tensor]] = {}

    def listen(group: str) -> Callable[..., None]:
        return lambda module, inputs: rows.setdefault(group, []).append(inputs[0][0].to(torch.float64))

    for i, layer in enumerate(model.model.layers):
        for module, group in MODULES.items():
            layer.get_submodule(module).register_forward_pre_hook(listen(f"layers.{i}.{group}"))
    model.lm_head.register_forward_pre_hook(listen("head"))
    with torch.inference_mode():
        for ids in SEQUENCES:
            model(torch.tensor([ids]))
    return {group: torch.cat(parts) for group, parts in rows.items()}


def test_statistics_are_those_of_transformers_inputs(model: PreTrainedModel, source: Source, tmp_path: Path) -> None:
    calibration = Calibration(source, SEQUENCES, tmp_path / "calibration")
    expected = hooked_inputs(model)
    groups = [group for group in source.architecture.linear_shapes() if calibration.covers(group)]
    assert set(groups) == set(expected) - ({"head"} if source.architecture.tie_embeddings else set())
    for group in groups:
        rows, statistics = expected[group], calibration.statistics(group)
        hessian = rows.T @ rows / len(rows)
        assert (statistics.hessian - hessian).abs().max() < 2e-5 * hessian.abs().max()
        torch.testing.assert_close(statistics.mean_abs, rows.abs().mean(dim=0).float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(statistics.max_abs, rows.abs().amax(dim=0).float(), rtol=1e-4, atol=1e-4)
        distance = torch.cdist(statistics.sample.double(), rows).amin(dim=1)
        assert len(statistics.sample) == 8 * len(SEQUENCES)
        assert distance.max() < 1e-3 * rows.norm(dim=1).max()
