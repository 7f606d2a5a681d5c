"""gpt-oss (OpenAI 2025): sinks and, by turns, windows in attention; experts with biases, whose swiglu is clamped."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field, PositiveFloat, PositiveInt

from artifacts.architecture import Architecture
from artifacts.layer_parts import Moe
from runtime.models.hf_config import HfConfig

#: of a config that says nothing
_YARN = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}


class GptOssConfig(HfConfig):
    num_key_value_heads: PositiveInt | None = 8
    head_dim: PositiveInt | None = 64
    max_position_embeddings: PositiveInt = 131072
    rms_norm_eps: PositiveFloat = 1e-5
    rope_theta: PositiveFloat = 150000.0
    attention_bias: bool = True
    sliding_window: PositiveInt | None = 128
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    num_local_experts: PositiveInt = Field(128, validation_alias=AliasChoices("num_local_experts", "num_experts"))
    num_experts_per_tok: PositiveInt = Field(4, validation_alias=AliasChoices("num_experts_per_tok", "experts_per_token"))
    swiglu_alpha: PositiveFloat = 1.702
    swiglu_limit: PositiveFloat = 7.0

    def architecture(self) -> Architecture:
        described = super().architecture().model_dump() | {
            "attention_sinks": True,
            "activation": "clamped_silu",
            "activation_limit": self.swiglu_limit,
            "activation_slope": self.swiglu_alpha,
        }
        return Architecture.model_validate(described)

    def has_qkv_bias(self) -> bool:
        return self.attention_bias

    def has_output_bias(self) -> bool:
        return self.attention_bias

    def layer_windows(self) -> tuple[int, ...]:
        """The first layer has the window and then every other, unless `layer_types` says otherwise."""
        kinds = self.layer_types or ["full_attention" if i % 2 else "sliding_attention" for i in range(self.num_hidden_layers)]
        windows = tuple((self.sliding_window or 0) * (kind == "sliding_attention") for kind in kinds)
        return windows if any(windows) else ()

    def moe(self) -> Moe:
        """Weights are the softmax over the chosen experts: that over all, made to sum to 1."""
        return Moe(
            num_experts=self.num_local_experts,
            num_experts_per_token=self.num_experts_per_tok,
            intermediate_size=self.intermediate_size,
            router_bias=True,
            expert_biases=True,
        )

    def rope_parameters_given(self) -> dict[str, object]:
        given = super().rope_parameters_given()
        return given if self.rope_parameters or self.rope_scaling else given | _YARN
