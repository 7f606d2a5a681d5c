"""Gemma (Gemma Team 2024, Open Models Based on Gemini): Llama with gelu, wider heads and embeddings that are multiplied."""

from __future__ import annotations

from pydantic import PositiveInt

from artifacts.architecture import Architecture
from runtime.models.hf_config import HfConfig
from runtime.models.unsupported import UnsupportedModel

#: "gelu" is what the first checkpoints say; transformers takes it for the other, which they were trained with
_GELU = ("gelu_pytorch_tanh", "gelu")


class GemmaConfig(HfConfig):
    num_key_value_heads: PositiveInt | None = 16
    head_dim: PositiveInt | None = 256
    max_position_embeddings: PositiveInt = 8192
    tie_word_embeddings: bool = True
    hidden_act: str = "gelu_pytorch_tanh"
    attention_bias: bool = False
    use_bidirectional_attention: bool | None = None

    def architecture(self) -> Architecture:
        changes = {"activation": "gelu", "embedding_scale": self.hidden_size**0.5}
        return super().architecture().model_copy(update=changes)

    def has_qkv_bias(self) -> bool:
        return self.attention_bias

    def has_output_bias(self) -> bool:
        return self.attention_bias

    def _refuse_what_is_unsupported(self) -> None:
        if self.hidden_act not in _GELU:
            raise UnsupportedModel(f"hidden_act must be one of {', '.join(_GELU)}, got {self.hidden_act!r}")
        if self.use_bidirectional_attention:
            raise UnsupportedModel("use_bidirectional_attention must be false: attention is causal here")
