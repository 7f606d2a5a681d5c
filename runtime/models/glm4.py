"""GLM-4 (GLM Team 2024): norms before and behind each branch, half of each head turns, neighbouring dimensions together."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveFloat, PositiveInt

from artifacts.architecture import Architecture
from runtime.models.hf_config import HfConfig


class Glm4Config(HfConfig):
    turns_partly: ClassVar[bool] = True

    num_key_value_heads: PositiveInt | None = 2
    head_dim: PositiveInt | None = 128
    max_position_embeddings: PositiveInt = 131072
    rms_norm_eps: PositiveFloat = 1.5625e-7
    partial_rotary_factor: float | None = 0.5
    attention_bias: bool = True

    def architecture(self) -> Architecture:
        return super().architecture().model_copy(update={"post_norms": True})

    def has_qkv_bias(self) -> bool:
        return self.attention_bias
