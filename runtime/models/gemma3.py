"""Gemma 3, text alone (Gemma Team 2025): Gemma 2 with norms of queries and keys, no caps, a rotation of its own for windows."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from artifacts.architecture import Architecture
from runtime.models.gemma2 import Gemma2Config

_FULL, _SLIDING = "full_attention", "sliding_attention"


class Gemma3TextConfig(Gemma2Config):
    max_position_embeddings: PositiveInt = 131072
    rope_theta: PositiveFloat = 1e6
    rope_local_base_freq: PositiveFloat = 1e4
    sliding_window_pattern: PositiveInt = 6
    attn_logit_softcapping: NonNegativeFloat | None = None
    final_logit_softcapping: NonNegativeFloat | None = None

    def architecture(self) -> Architecture:
        described = super().architecture()
        if not any(described.layer_windows):
            return described
        sliding = self.rope(self._rope_of(_SLIDING, {"rope_theta": self.rope_local_base_freq}))
        layer_ropes = tuple(int(window > 0) for window in described.layer_windows)
        return described.model_copy(update={"further_ropes": (sliding,), "layer_ropes": layer_ropes})

    def has_qk_norm(self) -> bool:
        return True

    def kinds(self) -> list[str]:
        every = self.sliding_window_pattern
        return self.layer_types or [_SLIDING if (i + 1) % every else _FULL for i in range(self.num_hidden_layers)]

    def rope_parameters_given(self) -> dict[str, object]:
        """Those of full attention; transformers 5 writes a set for each type of layer."""
        stated = self.rope_parameters or {}
        return self._rope_of(_FULL, {}) if _FULL in stated else super().rope_parameters_given()

    def _rope_of(self, kind: str, given: Mapping[str, object]) -> dict[str, object]:
        stated = (self.rope_parameters or {}).get(kind)
        plain = {
            "partial_rotary_factor": 1.0,
            "original_max_position_embeddings": self.max_position_embeddings,
            "rope_theta": self.rope_theta,
        }
        return plain | dict(given) | (stated if isinstance(stated, dict) else {})
