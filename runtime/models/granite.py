"""Granite 3 and 4 dense (IBM 2024): Llama with embeddings, scores, branches and logits that are multiplied."""

from __future__ import annotations

from pydantic import PositiveFloat

from artifacts.architecture import Architecture
from runtime.models.llama import LlamaConfig


class GraniteConfig(LlamaConfig):
    embedding_multiplier: PositiveFloat = 1.0
    attention_multiplier: PositiveFloat = 1.0
    """In place of head_dim^-0.5."""
    residual_multiplier: PositiveFloat = 1.0
    logits_scaling: PositiveFloat = 1.0
    """A divisor."""

    def architecture(self) -> Architecture:
        changes = {
            "embedding_scale": self.embedding_multiplier,
            "query_scalar": self.attention_multiplier**-2,
            "branch_scale": self.residual_multiplier,
            "logit_divisor": self.logits_scaling,
        }
        return super().architecture().model_copy(update=changes)
