"""Mistral (Jiang et al. 2023): Llama with one sliding window in every layer."""

from __future__ import annotations

from pydantic import PositiveInt

from runtime.models.hf_config import HfConfig
from runtime.models.unsupported import UnsupportedModel


class MistralConfig(HfConfig):
    sliding_window: PositiveInt | None = 4096
    layer_types: list[str] | None = None

    def layer_windows(self) -> tuple[int, ...]:
        if self.layer_types is not None:
            raise UnsupportedModel(
                "a mistral config has one window for all layers, but this one has layer_types: it is of another family"
            )
        return (self.sliding_window,) * self.num_hidden_layers if self.sliding_window else ()
