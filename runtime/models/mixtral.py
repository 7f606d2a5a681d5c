"""Mixtral (Jiang et al. 2024): Mistral whose layers are mixtures of experts."""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt

from artifacts.layer_parts import Moe
from runtime.models.mistral import MistralConfig


class MixtralConfig(MistralConfig):
    rope_theta: PositiveFloat = 1e6
    rms_norm_eps: PositiveFloat = 1e-5
    sliding_window: PositiveInt | None = None
    num_local_experts: PositiveInt = 8
    num_experts_per_tok: PositiveInt = 2

    def moe(self) -> Moe:
        return Moe(
            num_experts=self.num_local_experts,
            num_experts_per_token=self.num_experts_per_tok,
            intermediate_size=self.intermediate_size,
        )
