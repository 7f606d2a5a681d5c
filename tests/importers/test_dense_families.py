"""What configs of gemma3, glm4, phi3 and smollm3 say, in transformers 5's form and before, and what is refused by name.

Their logits are compared in tests/runtime (CPU, emulated GPU) and tests/exporters (ONNX).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, Glm4Config, LlamaConfig, Phi3Config, PreTrainedConfig, SmolLM3Config

from artifacts.architecture import Architecture
from artifacts.layer_parts import Rope
from optimizer.exporters import ExportError
from optimizer.exporters.hf_config import hf_config
from runtime.models import UnsupportedModel, architecture, checkpoint_tensors
from runtime.rope import rope_tables
from tests.importers.random_models import SIZES

LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}


def read(config: PreTrainedConfig, **changes: Any) -> Architecture:
    return architecture(config.to_dict() | changes)


def test_gemma3_turns_windows_by_a_rotation_of_their_own() -> None:
    found = read(Gemma3TextConfig(**SIZES | {"num_hidden_layers": 7}, head_dim=16, sliding_window=24))
    assert found.layer_windows == (24, 24, 24, 24, 24, 0, 24) and found.layer_ropes == (1, 1, 1, 1, 1, 0, 1)
    assert (found.rope_of(5).theta, found.rope_of(0).theta) == (1e6, 1e4)
    assert found.qk_norm and found.post_norms and not found.attention_softcap


def test_gemma3_of_older_transformers() -> None:
    """google/gemma-3-4b-it: a pattern, two bases, and a scaling that is of full attention alone."""
    config = Gemma3TextConfig(**SIZES | {"num_hidden_layers": 6}, head_dim=16, sliding_window=24)
    kept = {key: value for key, value in config.to_dict().items() if key not in ("layer_types", "rope_parameters")}
    older = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6}
    assert architecture(kept | older) == read(config)
    scaled = architecture(kept | older | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    assert scaled.rope == Rope(theta=1e6, scaling="linear", factor=8.0)
    assert scaled.further_ropes == (Rope(theta=1e4),)


def test_smollm3_has_layers_without_positions() -> None:
    found = read(SmolLM3Config(**SIZES | {"num_hidden_layers": 5}, pad_token_id=None))
    assert found.layer_ropes == (0, 0, 0, 1, 0)
    cos, sin = rope_tables(found.rope_of(3), found.head_dim, 9)
    assert (cos == 1).all() and (sin == 0).all() and cos.shape == (9, found.head_dim // 2)


def test_heads_that_turn_in_part_are_put_in_our_order() -> None:
    """What turns together stands half a head apart; the product of two heads does not depend on their order."""
    for config in (Glm4Config(**SIZES, head_dim=16, pad_token_id=None), Phi3Config(**SIZES, partial_rotary_factor=0.5)):
        described = read(config)
        turning, head_dim = described.rope.turning(described.head_dim), described.head_dim
        assert turning == head_dim // 2
        (part, *_) = checkpoint_tensors(described)["layers.0.qkv.weight"]
        rows = torch.arange(part.shape[0])[:, None].expand(part.shape)
        order = part.taken_from(rows)[:head_dim, 0].tolist()
        assert sorted(order) == list(range(head_dim))
        pairs = set(zip(order[: turning // 2], order[head_dim // 2 : (head_dim + turning) // 2], strict=True))
        near = {(2 * i, 2 * i + 1) for i in range(turning // 2)}
        far = {(i, i + turning // 2) for i in range(turning // 2)}
        assert pairs == (near if config.model_type == "glm4" else far)
        assert torch.equal(part.taken_from(rows)[-head_dim:], rows[-head_dim:]) or part.name.endswith("q_proj.weight")


def test_longrope_takes_the_factors_of_the_length_that_is_served() -> None:
    config = Phi3Config(**SIZES, original_max_position_embeddings=32, rope_parameters=LONGROPE, pad_token_id=None)
    rope = read(config).rope
    assert rope.attention_factor == pytest.approx((1 + 2 / 5) ** 0.5)  # 128 / 32 = 2^2, 32 = 2^5
    short, long = (rope_tables(rope, 8, length)[0] / rope.attention_factor for length in (32, 33))
    assert short[1, 1] == pytest.approx(float(torch.cos(torch.tensor(0.1))), abs=1e-6)
    assert long[1, 1] == pytest.approx(float(torch.cos(torch.tensor(0.1 / 3))), abs=1e-6)


@pytest.mark.parametrize("kind", ["su", "yarn"])
def test_longrope_under_its_older_names(kind: str) -> None:
    config = Phi3Config(**SIZES, original_max_position_embeddings=32, rope_parameters=LONGROPE, pad_token_id=None)
    older = {"rope_parameters": None, "rope_scaling": {**LONGROPE, "type": kind, "rope_type": None}}
    assert read(config, **older) == read(config)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (LlamaConfig(**SIZES), {"partial_rotary_factor": 0.5, "rope_parameters": None}, "must be 1 for llama, got 0.5"),
        (Phi3Config(**SIZES), {"rope_parameters": {**LONGROPE, "short_factor": [1.0]}}, "longrope needs 4 short_factors"),
        (Phi3Config(**SIZES), {"rope_parameters": {"rope_type": "longrope"}}, "needs short_factor, long_factor"),
        (Gemma3TextConfig(**SIZES), {"use_bidirectional_attention": True}, "use_bidirectional_attention must be false"),
        (Glm4Config(**SIZES), {"partial_rotary_factor": 0.2, "rope_parameters": None}, "rotary_dim must be even"),
    ],
)
def test_what_cannot_be_run_is_refused_by_its_key(config: PreTrainedConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        read(config, **changes)


@pytest.mark.parametrize(
    "config", [Gemma3TextConfig(**SIZES), Glm4Config(**SIZES), Phi3Config(**SIZES), SmolLM3Config(**SIZES)]
)
def test_a_format_that_has_no_words_for_them_refuses_them(config: PreTrainedConfig) -> None:
    with pytest.raises(ExportError, match=f"got '{config.model_type}'"):
        hf_config(read(config), {})
