"""Granite 3 with experts (IBM 2024): Granite whose layers are mixtures, weighed by the softmax over the chosen experts."""

from __future__ import annotations

from pydantic import PositiveInt

from artifacts.layer_parts import Moe
from runtime.models.granite import GraniteConfig


class GraniteMoeConfig(GraniteConfig):
    num_local_experts: PositiveInt = 8
    num_experts_per_tok: PositiveInt = 2

    def moe(self) -> Moe:
        return Moe(
            num_experts=self.num_local_experts,
            num_experts_per_token=self.num_experts_per_tok,
            intermediate_size=self.intermediate_size,
        )
