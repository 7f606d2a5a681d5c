"""OLMoE (Muennighoff et al. 2024): Llama with experts in every layer, and one norm for all heads of q, and one of k."""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt

from artifacts.architecture import Architecture
from artifacts.layer_parts import Moe
from runtime.models.llama import LlamaConfig
from runtime.models.unsupported import UnsupportedModel


class OlmoeConfig(LlamaConfig):
    rms_norm_eps: PositiveFloat = 1e-5
    num_experts: PositiveInt = 64
    num_experts_per_tok: PositiveInt = 8
    norm_topk_prob: bool = False
    clip_qkv: float | None = None

    def architecture(self) -> Architecture:
        if self.clip_qkv is not None:
            raise UnsupportedModel(f"clip_qkv must be null: queries, keys and values are not clipped; got {self.clip_qkv}")
        return super().architecture().model_copy(update={"qk_norm_of_all_heads": True})

    def has_qk_norm(self) -> bool:
        return True

    def moe(self) -> Moe:
        return Moe(
            num_experts=self.num_experts,
            num_experts_per_token=self.num_experts_per_tok,
            intermediate_size=self.intermediate_size,
            normalized=self.norm_topk_prob,
        )
