"""Calibration statistics against hooks on transformers' own models, and what a killed run leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GraniteConfig,
    LlamaConfig,
    Olmo2Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from optimizer.importers import Source, open_source
from optimizer.quantization.calibration import Calibration
from optimizer.quantization.input_statistics import InputAccumulator
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
    "gemma2": Gemma2Config(**SIZES, head_dim=16, sliding_window=16, attn_logit_softcapping=1.0, tie_word_embeddings=False),
    "gemma3": Gemma3TextConfig(
        **SIZES, head_dim=16, sliding_window=16, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
    "gemma4": Gemma4TextConfig(
        **SIZES | {"num_hidden_layers": 4},
        head_dim=16,
        global_head_dim=24,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=2,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=96,
    ),
    "gemma4, keys are values": Gemma4TextConfig(
        **SIZES, head_dim=16, sliding_window=16, attention_k_eq_v=True, hidden_size_per_layer_input=0
    ),
    "granite": GraniteConfig(**SIZES, embedding_multiplier=4.0, attention_multiplier=0.3, residual_multiplier=0.4),
    "olmo2": Olmo2Config(**SIZES),
    "smollm3": SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1], pad_token_id=None),
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
        for module in ("per_layer_input_gate", "per_layer_projection"):
            if hasattr(layer, module):
                layer.get_submodule(module).register_forward_pre_hook(listen(f"layers.{i}.{module}"))
    if hasattr(model.model, "per_layer_model_projection"):
        model.model.per_layer_model_projection.register_forward_pre_hook(listen("per_layer_model_projection"))
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


KILLED = """
import os, signal, sys
from pathlib import Path
from optimizer.importers import open_source
from optimizer.quantization import calibration

kept = calibration.Calibration._pass_layer

def dies_in_layer_2(self, index, *states):
    if index == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return kept(self, index, *states)

calibration.Calibration._pass_layer = dies_in_layer_2
model, folder, *sequences = sys.argv[1:]
sequences = [list(map(int, ids.split())) for ids in sequences]
calibration.Calibration(open_source(Path(model)), sequences, Path(folder)).statistics("layers.2.o")
"""


@pytest.mark.parametrize("name", ["llama", "gemma4"])
def test_a_killed_run_goes_on_at_its_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With what its layers read of those before: one stream, or caches as well."""
    model = save_folder(moderate(random_model(CONFIGS[name])), tmp_path / "model")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    texts = [" ".join(map(str, ids)) for ids in SEQUENCES]
    # Sums of other numbers of threads are others.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.run([sys.executable, "-c", KILLED, model, killed, *texts], check=False, env=os.environ | threads)
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in sorted(killed.glob("layers.*"))] == ["layers.0.safetensors", "layers.1.safetensors"]

    source = open_source(model)
    num_layers = source.architecture.num_layers
    last = "head" if "head" in source.architecture.linear_shapes() else f"layers.{num_layers - 1}.down"
    expected = {
        group: Calibration(source, SEQUENCES, whole).statistics(group) for group in ("layers.1.o", "layers.2.down", last)
    }
    passed: list[int] = []
    pass_layer = Calibration._pass_layer

    def counted(self: Calibration, index: int, *states: Any) -> dict[str, InputAccumulator]:
        passed.append(index)
        return pass_layer(self, index, *states)

    monkeypatch.setattr(Calibration, "_pass_layer", counted)
    for group, statistics in expected.items():
        resumed = Calibration(source, SEQUENCES, killed).statistics(group)
        assert torch.equal(resumed.hessian, statistics.hessian) and torch.equal(resumed.sample, statistics.sample)
    assert passed == list(range(2, num_layers))
    assert not list(killed.glob("hidden.[0-2].*"))


def test_one_layers_weights_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The weights of a layer are gone when those of the next are read."""
    source = open_source(save_folder(random_model(CONFIGS["llama"]), tmp_path / "model"))
    alive: dict[str, weakref.ref[torch.Tensor]] = {}

    class Watched(Source):
        def tensor(self, name: str) -> torch.Tensor:
            layer = name.rpartition(".")[0].rpartition(".")[0]
            others = [other for other, tensor in alive.items() if tensor() is not None and not other.startswith(f"{layer}.")]
            assert not others, f"{others} are still held when {name} is read"
            tensor = source.tensor(name).clone()
            alive[name] = weakref.ref(tensor)
            return tensor

    watched = Watched(**{field.name: getattr(source, field.name) for field in fields(Source)})
    Calibration(watched, SEQUENCES, tmp_path / "calibration").statistics("layers.2.down")
    assert sum(name.startswith("layers.") for name in alive) == 3 * 8


def test_what_cannot_be_calibrated_is_refused(tmp_path: Path) -> None:
    source = open_source(save_folder(random_model(CONFIGS["qwen2"]), tmp_path / "model"))
    for sequences in ([], [[]], [[1] * 129]):
        with pytest.raises(ValueError, match="1 to 128 tokens"):
            Calibration(source, sequences, tmp_path / "calibration")
    calibration = Calibration(source, SEQUENCES, tmp_path / "calibration")
    for group in ("embed", "head", "layers.7.qkv"):
        with pytest.raises(KeyError, match=group):
            calibration.statistics(group)
    assert calibration.digest != Calibration(source, SEQUENCES[:2], tmp_path / "other").digest
