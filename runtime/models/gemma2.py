"""Gemma 2 (Gemma Team 2024): norms before and behind each branch, gelu, soft-capped scores and logits, windows by turns."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from artifacts.architecture import Architecture
from runtime.models.hf_config import HfConfig
from runtime.models.unsupported import UnsupportedModel


class Gemma2Config(HfConfig):
    num_key_value_heads: PositiveInt | None = 4
    head_dim: PositiveInt | None = 256
    max_position_embeddings: PositiveInt = 8192
    tie_word_embeddings: bool = True
    hidden_activation: str = "gelu_pytorch_tanh"
    attention_bias: bool = False
    query_pre_attn_scalar: PositiveFloat = 256
    sliding_window: PositiveInt | None = 4096
    layer_types: list[str] | None = None
    attn_logit_softcapping: NonNegativeFloat | None = 50.0
    final_logit_softcapping: NonNegativeFloat | None = 30.0
    use_bidirectional_attention: bool | Literal["vision"] | None = None
    """`vision`: of images, of which there are none here."""

    def architecture(self) -> Architecture:
        described = super().architecture().model_dump() | {
            "activation": "gelu",
            "post_norms": True,
            "embedding_scale": self.hidden_size**0.5,
            "query_scalar": self.query_pre_attn_scalar,
            "attention_softcap": self.attn_logit_softcapping or 0.0,
            "logit_softcap": self.final_logit_softcapping or 0.0,
        }
        return Architecture.model_validate(described)

    def has_qkv_bias(self) -> bool:
        return self.attention_bias

    def has_output_bias(self) -> bool:
        return self.attention_bias

    def kinds(self) -> list[str]:
        """The type of each layer: every other has the window, the first one too, unless `layer_types` says otherwise."""
        layers = range(self.num_hidden_layers)
        return self.layer_types or ["full_attention" if i % 2 else "sliding_attention" for i in layers]

    def layer_windows(self) -> tuple[int, ...]:
        window = self.sliding_window or 0
        windows = tuple(window if kind == "sliding_attention" else 0 for kind in self.kinds())
        return windows if any(windows) else ()

    def _refuse_what_is_unsupported(self) -> None:
        if self.hidden_activation != "gelu_pytorch_tanh":
            raise UnsupportedModel(f"hidden_activation must be 'gelu_pytorch_tanh', got {self.hidden_activation!r}")
        if self.use_bidirectional_attention not in (None, False, "vision"):
            raise UnsupportedModel("use_bidirectional_attention must be false: attention is causal here")
