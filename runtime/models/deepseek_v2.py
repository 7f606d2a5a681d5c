"""DeepSeek-V2 (DeepSeek-AI 2024): experts chosen by softmax, of the best groups where there are groups."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from artifacts.layer_parts import Moe
from runtime.models.deepseek import DeepseekConfig


class DeepseekV2Config(DeepseekConfig):
    mlp_bias: bool = False
    moe_intermediate_size: PositiveInt = 1407
    n_routed_experts: PositiveInt = 64
    n_shared_experts: NonNegativeInt | None = 2
    n_group: PositiveInt | None = None
    topk_group: PositiveInt | None = None
    routed_scaling_factor: PositiveFloat = 1.0
    first_k_dense_replace: NonNegativeInt = 0
    topk_method: Literal["greedy", "group_limited_greedy"] = "greedy"
    scoring_func: Literal["softmax"] = "softmax"
    norm_topk_prob: Literal[False] = False
    """Engines disagree on what it means beside routed_scaling_factor; no released model has it."""

    def has_mlp_bias(self) -> bool:
        return self.mlp_bias

    def moe(self) -> Moe:
        return self.moe_with("softmax", normalized=False, grouped=self.topk_method == "group_limited_greedy")
