"""Rotary tables against transformers' rotary embedding modules."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from runtime.models import architecture
from runtime.rope import rope_tables

_LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 512}

PARAMETERS: dict[str, dict[str, object]] = {
    "default": {"rope_type": "default", "rope_theta": 1e4},
    "large-theta": {"rope_type": "default", "rope_theta": 1e6},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5},
    "llama3": {**_LLAMA3, "original_max_position_embeddings": 512},
    "llama3-32": {**_LLAMA3, "factor": 32.0, "original_max_position_embeddings": 256},
    "yarn": _YARN,
    "yarn-betas": {**_YARN, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn-not-truncated": {**_YARN, "truncate": False},
    "yarn-small-theta": {**_YARN, "rope_theta": 1e4, "factor": 1.0},
    "yarn-factor": {**_YARN, "attention_factor": 0.75},
    "yarn-mscale": {**_YARN, "mscale": 0.8, "mscale_all_dim": 0.5},
}


@pytest.mark.parametrize("head_dim", [64, 80, 128])
@pytest.mark.parametrize("kind", PARAMETERS)
def test_tables_are_transformers(kind: str, head_dim: int) -> None:
    config = LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        max_position_embeddings=2048,
        rope_parameters=dict(PARAMETERS[kind]),
    )
    expected = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(2048)[None])
    found = rope_tables(architecture(config.to_dict()).rope, head_dim, 2048)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == np.float32
        assert ours.shape == (2048, head_dim // 2)
        np.testing.assert_allclose(ours, theirs[0, :, : head_dim // 2].numpy(), atol=1e-6, rtol=0)


def test_default_angles_are_position_times_frequency() -> None:
    """Against the formula in fp64, within what fp32 angles allow."""
    rope = architecture(LlamaConfig(rope_parameters=dict(PARAMETERS["default"])).to_dict()).rope
    cos, sin = rope_tables(rope, 64, 300)
    angles = np.arange(300)[:, None] * 1e4 ** (-np.arange(0, 64, 2) / 64)
    assert np.abs(cos - np.cos(angles)).max() < 300 * math.ulp(1.0) * 2**29 * 2
    assert np.abs(sin - np.sin(angles)).max() < 300 * math.ulp(1.0) * 2**29 * 2
