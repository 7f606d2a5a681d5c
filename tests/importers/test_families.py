"""Configs as transformers reads them: rope in both forms, windows as the modules apply them, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from runtime.models import UnknownArchitecture, UnsupportedModel, architecture
from tests.importers.random_models import CONFIGS, SIZES

LLAMA = CONFIGS["llama"].to_dict()

OLD_ROPES: dict[str, dict[str, object]] = {
    "theta": {"rope_theta": 1e5},
    "absent": {},
    "null": {"rope_theta": 5e4, "rope_scaling": None},
    "linear, type": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "linear, theta": {"rope_theta": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "llama3": {
        "rope_theta": 5e5,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "yarn": {
        "rope_theta": 1e6,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    },
    "yarn, origin implied": {"rope_scaling": {"type": "yarn", "factor": 4.0}},
    "yarn, origin on top": {
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        "original_max_position_embeddings": 16,
    },
}


@pytest.mark.parametrize("kind", OLD_ROPES)
def test_old_rope_keys_mean_what_transformers_makes_of_them(kind: str, tmp_path: Path) -> None:
    """transformers turns the old form into its new one; both must give the same Rope."""
    old = {key: value for key, value in LLAMA.items() if key != "rope_parameters"} | OLD_ROPES[kind]
    (tmp_path / "config.json").write_text(json.dumps(old))
    new = AutoConfig.from_pretrained(tmp_path).to_dict()
    assert "rope_parameters" in new
    assert architecture(old).rope == architecture(new).rope


SLIDING = ["full_attention", "sliding_attention", "sliding_attention"]
WINDOWS: dict[str, PreTrainedConfig] = {
    "mistral": MistralConfig(**SIZES, sliding_window=16),
    "mistral, none": MistralConfig(**SIZES, sliding_window=None),
    "qwen2, unused": Qwen2Config(**SIZES, sliding_window=16, max_window_layers=1),
    "qwen2, from layer 2": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=2),
    "qwen2, past the end": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=28),
    "qwen2, by layer": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=16, layer_types=SLIDING),
    "qwen3, unused": Qwen3Config(**SIZES),
    "qwen3, from layer 0": Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=0),
    "llama": LlamaConfig(**SIZES, sliding_window=16),
}


@pytest.mark.parametrize("kind", WINDOWS)
def test_windows_are_those_of_the_modules(kind: str) -> None:
    config = WINDOWS[kind]
    layers = AutoModelForCausalLM.from_config(config).model.layers
    if config.model_type == "mistral":  # its modules read the config's window in every layer
        expected = [config.sliding_window] * len(layers)
    else:
        expected = [getattr(layer.self_attn, "sliding_window", None) for layer in layers]
    for given in (config.to_dict(), config.to_dict() | {"layer_types": None}):  # old configs have no layer_types
        if "by layer" not in kind or given["layer_types"]:
            found = architecture(given)
            assert [found.window(i) for i in range(len(layers))] == [window or 0 for window in expected]


def test_absent_keys_have_transformers_defaults() -> None:
    for config in (LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config):
        written = {**SIZES, "rms_norm_eps": 1e-5, "model_type": config.model_type}
        assert architecture(written) == architecture(config(**written).to_dict())
    written["num_key_value_heads"] = None
    assert architecture(written).num_kv_heads == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt_neox"}, r"one of llama, mistral, qwen2, qwen3, .*deepseek_v3; the config says 'gpt_neox'"),
        ({"model_type": None}, "model_type must be one of"),
    ],
)
def test_unknown_architecture_lists_the_known(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UnknownArchitecture, match=message):
        architecture(LLAMA | changes)


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "activation": ({"hidden_act": "gelu"}, "hidden_act must be 'silu', got 'gelu'"),
    "mlp_bias": ({"mlp_bias": True}, "mlp_bias must be false"),
    "missing key": ({"hidden_size": None}, "hidden_size"),
    "wrong value": ({"num_hidden_layers": -1}, "num_hidden_layers"),
    "heads": ({"num_key_value_heads": 3}, "multiple of num_kv_heads"),
    "dynamic": (
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
        "rope_type must be one of.*got 'dynamic'",
    ),
    "longrope": ({"rope_parameters": {"rope_type": "longrope"}}, "'longrope' needs short_factor, long_factor"),
    "old dynamic": ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "got 'dynamic'"),
    "factor": ({"rope_parameters": {"rope_type": "linear"}}, "'linear' needs factor"),
    "llama3 keys": ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor, high_freq_factor"),
    "partial": (
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "partial_rotary_factor must",
    ),
    "partial, old": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1"),
    "per layer": ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "same for all layers"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    changes, message = REFUSED[kind]
    with pytest.raises(UnsupportedModel, match=message):
        architecture(LLAMA | changes)


def test_a_mistral_config_with_layer_types_is_refused() -> None:
    config = CONFIGS["mistral"].to_dict() | {"layer_types": ["full_attention"] * 3}
    with pytest.raises(UnsupportedModel, match="layer_types"):
        architecture(config)
