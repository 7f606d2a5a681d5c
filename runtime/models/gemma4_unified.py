"""The text part of Gemma 4 12B (Google 2026), whose encoder is its decoder: Gemma 4 without embeddings for each layer."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt

from runtime.models.gemma4 import Gemma4TextConfig


class Gemma4UnifiedTextConfig(Gemma4TextConfig):
    max_position_embeddings: PositiveInt = 262144
    sliding_window: PositiveInt | None = 1024
    hidden_size_per_layer_input: NonNegativeInt = 0
