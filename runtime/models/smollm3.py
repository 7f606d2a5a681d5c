"""SmolLM3 (Bakouch et al. 2025): Llama in which every fourth layer knows no positions (NoPE)."""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt

from artifacts.architecture import Architecture
from runtime.models.llama import LlamaConfig


class SmolLM3Config(LlamaConfig):
    num_key_value_heads: PositiveInt | None = 4
    max_position_embeddings: PositiveInt = 32768
    tie_word_embeddings: bool = True
    rope_theta: PositiveFloat = 2e6
    no_rope_layers: list[int] | None = None
    """For each layer 1 if its positions turn, 0 if it has none."""
    no_rope_layer_interval: PositiveInt = 4
    use_sliding_window: bool = False
    sliding_window: PositiveInt | None = None
    layer_types: list[str] | None = None

    def architecture(self) -> Architecture:
        described = super().architecture()
        standing = described.rope.model_copy(update={"rotary_dim": 0})
        layer_ropes = tuple(int(not turns) for turns in self._turning())
        return described.model_copy(update={"further_ropes": (standing,), "layer_ropes": layer_ropes})

    def layer_windows(self) -> tuple[int, ...]:
        """`layer_types` decides where it is given, otherwise layers without positions have the window."""
        if not self.use_sliding_window or not self.sliding_window:
            return ()
        slides = [kind == "sliding_attention" for kind in self.layer_types or ()] or [not turns for turns in self._turning()]
        return tuple(self.sliding_window if has_window else 0 for has_window in slides) if any(slides) else ()

    def _turning(self) -> list[bool]:
        layers, interval = range(self.num_hidden_layers), self.no_rope_layer_interval
        if self.no_rope_layers is None:
            return [(i + 1) % interval != 0 for i in layers]
        return [bool(turns) for turns in self.no_rope_layers[: self.num_hidden_layers]]
