"""What DeepSeek-V2 and V3 share: latent attention, and mixtures of experts with shared ones behind dense layers."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from artifacts.layer_parts import Mla, Moe
from runtime.models.hf_config import HfConfig
from runtime.models.hf_rope import score_factor
from runtime.models.unsupported import UnsupportedModel


class DeepseekConfig(HfConfig):
    kv_lora_rank: PositiveInt = 512
    q_lora_rank: PositiveInt | None = 1536
    qk_nope_head_dim: PositiveInt = 128
    qk_rope_head_dim: PositiveInt = 64
    v_head_dim: PositiveInt = 128
    attention_bias: bool = False
    moe_intermediate_size: PositiveInt
    n_routed_experts: PositiveInt
    n_shared_experts: NonNegativeInt | None
    num_experts_per_tok: PositiveInt
    n_group: PositiveInt | None
    topk_group: PositiveInt | None
    routed_scaling_factor: PositiveFloat
    first_k_dense_replace: NonNegativeInt
    moe_layer_freq: Literal[1] = 1

    def attention_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def mla(self) -> Mla:
        if self.attention_bias:
            raise UnsupportedModel("attention_bias must be false: latent attention has no biases here")
        if self.num_key_value_heads not in (None, self.num_attention_heads):
            raise UnsupportedModel(
                "num_key_value_heads must be num_attention_heads under latent attention, got "
                f"{self.num_key_value_heads} and {self.num_attention_heads}"
            )
        return Mla(
            kv_lora_rank=self.kv_lora_rank,
            q_lora_rank=self.q_lora_rank,
            nope_head_dim=self.qk_nope_head_dim,
            rope_head_dim=self.qk_rope_head_dim,
            v_head_dim=self.v_head_dim,
            score_factor=score_factor(self.rope_parameters_given()),
        )

    def moe_with(self, scoring: Literal["softmax", "sigmoid"], normalized: bool, grouped: bool) -> Moe:
        return Moe(
            num_experts=self.n_routed_experts,
            num_experts_per_token=self.num_experts_per_tok,
            intermediate_size=self.moe_intermediate_size,
            scoring=scoring,
            normalized=normalized,
            scaling=self.routed_scaling_factor,
            num_groups=(self.n_group or 1) if grouped else 1,
            num_chosen_groups=(self.topk_group or 1) if grouped else 1,
            shared_intermediate_size=(self.n_shared_experts or 0) * self.moe_intermediate_size,
            first_layer=self.first_k_dense_replace,
        )
