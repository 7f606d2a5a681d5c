"""Granite 4 whose layers all attend (IBM 2025): Granite with one network for all tokens, beside experts or alone."""

from __future__ import annotations

from pydantic import AliasChoices, Field, NonNegativeInt, PositiveInt

from artifacts.architecture import Architecture
from artifacts.layer_parts import Moe, Rope
from runtime.models.granite import GraniteConfig
from runtime.models.unserved import recurrent

#: before transformers 5 and since
_ATTENDS = ("attention", "full_attention")


class GraniteMoeHybridConfig(GraniteConfig):
    layer_types: list[str] = Field([], validation_alias=AliasChoices("layer_types", "layers_block_type"))
    num_local_experts: NonNegativeInt = 8
    num_experts_per_tok: NonNegativeInt = 2
    shared_intermediate_size: PositiveInt = 1024
    position_embedding_type: str | None = None

    def architecture(self) -> Architecture:
        """UnservedArchitecture where a layer is recurrent, as all are where the config does not say."""
        if len(self.layer_types) != self.num_hidden_layers or not set(self.layer_types) <= set(_ATTENDS):
            raise recurrent(self.model_type)
        found = super().architecture()
        rope = found.rope if self.position_embedding_type == "rope" else Rope(rotary_dim=0)
        dense = {} if self.num_local_experts else {"intermediate_size": self.shared_intermediate_size}
        return found.model_copy(update={"rope": rope, **dense})

    def moe(self) -> Moe | None:
        if not self.num_local_experts:
            return None
        return Moe(
            num_experts=self.num_local_experts,
            num_experts_per_token=self.num_experts_per_tok,
            intermediate_size=self.intermediate_size,
            shared_intermediate_size=self.shared_intermediate_size,
        )
