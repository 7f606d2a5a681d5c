"""What Gemma 4 says of its experts (26B-A4B), which stand beside the network that all tokens go to."""

from __future__ import annotations

from pydantic import PositiveInt

from artifacts.layer_parts import Moe
from runtime.models.gemma2 import Gemma2Config
from runtime.models.unsupported import UnsupportedModel


class Gemma4ExpertsConfig(Gemma2Config):
    enable_moe_block: bool = False
    num_experts: PositiveInt | None = None
    top_k_experts: PositiveInt | None = None
    moe_intermediate_size: PositiveInt | None = None

    def moe(self) -> Moe | None:
        """A router with a norm without a gain of its own, and a number for each expert, which its weight is multiplied by."""
        if not self.enable_moe_block:
            return None
        if self.num_experts is None or self.top_k_experts is None or self.moe_intermediate_size is None:
            sizes = {key: getattr(self, key) for key in ("num_experts", "top_k_experts", "moe_intermediate_size")}
            missing = ", ".join(key for key, size in sizes.items() if size is None)
            raise UnsupportedModel(
                f"enable_moe_block needs num_experts, top_k_experts and moe_intermediate_size; lacks {missing}"
            )
        return Moe(
            num_experts=self.num_experts,
            num_experts_per_token=self.top_k_experts,
            intermediate_size=self.moe_intermediate_size,
            expert_scales=True,
            beside_dense=True,
        )
