"""Mistral (Jiang et al. 2023): Llama with one sliding window in every layer."""

from __future__ import annotations

from pydantic import PositiveInt

from runtime.models.hf_config import HfConfig
from runtime.models.unsupported import UnsupportedModel


class MistralConfig(HfConfig):
    num_key_value_heads: PositiveInt | None = 8
    max_position_embeddings: PositiveInt = 4096 * 32
    sliding_window: PositiveInt | None = 4096
    layer_types: list[str] | None = None

    def layer_windows(self) -> tuple[int, ...]:
        kind = "sliding_attention" if self.sliding_window else "full_attention"
        if any(layer != kind for layer in self.layer_types or ()):
            raise UnsupportedModel(
                f"a mistral config's layer_types must all be {kind} by its sliding_window; this one is of another family"
            )
        return (self.sliding_window,) * self.num_hidden_layers if self.sliding_window else ()
