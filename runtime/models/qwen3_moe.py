"""Qwen3-MoE (Yang et al. 2025): Qwen3 whose layers are mixtures of experts, without a shared one."""

from __future__ import annotations

from pydantic import AliasChoices, Field, PositiveInt

from artifacts.layer_parts import Moe
from runtime.models.qwen3 import Qwen3Config
from runtime.models.unsupported import UnsupportedModel


class Qwen3MoeConfig(Qwen3Config):
    num_key_value_heads: PositiveInt | None = 4
    head_dim: PositiveInt | None = None
    # transformers 5 writes its common name.
    num_experts: PositiveInt = Field(128, validation_alias=AliasChoices("num_experts", "num_local_experts"))
    num_experts_per_tok: PositiveInt = 8
    moe_intermediate_size: PositiveInt = 768
    norm_topk_prob: bool = False
    decoder_sparse_step: PositiveInt = 1
    mlp_only_layers: list[int] | None = None

    def layer_windows(self) -> tuple[int, ...]:
        """One window for all layers, as transformers has it."""
        return (self.sliding_window,) * self.num_hidden_layers if self.use_sliding_window and self.sliding_window else ()

    def moe(self) -> Moe:
        dense = sorted(self.mlp_only_layers or [])
        if self.decoder_sparse_step != 1 or dense != list(range(len(dense))):
            raise UnsupportedModel(
                "dense layers must come first: decoder_sparse_step must be 1 and mlp_only_layers the first layers, got "
                f"{self.decoder_sparse_step} and {dense}"
            )
        return Moe(
            num_experts=self.num_experts,
            num_experts_per_token=self.num_experts_per_tok,
            intermediate_size=self.moe_intermediate_size,
            normalized=self.norm_topk_prob,
            first_layer=len(dense),
        )
