"""DeepSeek-V3 and R1 (DeepSeek-AI 2024): experts chosen by sigmoid, with a bias that only chooses."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from artifacts.layer_parts import Moe
from runtime.models.deepseek import DeepseekConfig


class DeepseekV3Config(DeepseekConfig):
    max_position_embeddings: PositiveInt = 4096
    moe_intermediate_size: PositiveInt = 2048
    n_routed_experts: PositiveInt = 256
    n_shared_experts: NonNegativeInt | None = 1
    num_experts_per_tok: PositiveInt = 8
    n_group: PositiveInt | None = 8
    topk_group: PositiveInt | None = 4
    routed_scaling_factor: PositiveFloat = 2.5
    first_k_dense_replace: NonNegativeInt = 3
    topk_method: Literal["noaux_tc"] = "noaux_tc"
    scoring_func: Literal["sigmoid"] = "sigmoid"
    norm_topk_prob: bool = True
    rope_interleave: Literal[True] = True

    def moe(self) -> Moe:
        return self.moe_with("sigmoid", normalized=self.norm_topk_prob, grouped=True)
