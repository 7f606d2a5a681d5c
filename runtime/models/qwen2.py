"""Qwen2 and Qwen2.5 (Yang et al. 2024): biases on q, k and v, windows from some layer on."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from runtime.models.hf_config import HfConfig


class Qwen2Config(HfConfig):
    num_key_value_heads: PositiveInt | None = 32
    max_position_embeddings: PositiveInt = 32768
    use_sliding_window: bool = False
    sliding_window: NonNegativeInt | None = 4096
    """0 and None mean that there is no window."""
    max_window_layers: NonNegativeInt = 28
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None

    def has_qkv_bias(self) -> bool:
        return True

    def layer_windows(self) -> tuple[int, ...]:
        """`layer_types` decides where it is given, otherwise layers from `max_window_layers` on have the window."""
        if not self.use_sliding_window or not self.sliding_window:
            return ()
        if self.layer_types is not None:
            sliding = [kind == "sliding_attention" for kind in self.layer_types]
        else:
            sliding = [layer >= self.max_window_layers for layer in range(self.num_hidden_layers)]
        return tuple(self.sliding_window if slides else 0 for slides in sliding) if any(sliding) else ()
