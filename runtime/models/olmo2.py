"""OLMo 2 (OLMo Team 2025): norms behind each branch, none before, and one norm for all heads of q, and one of k."""

from __future__ import annotations

from pydantic import PositiveFloat

from artifacts.architecture import Architecture
from runtime.models.llama import LlamaConfig


class Olmo2Config(LlamaConfig):
    rms_norm_eps: PositiveFloat = 1e-5

    def architecture(self) -> Architecture:
        changes = {"pre_norms": False, "post_norms": True, "qk_norm_of_all_heads": True}
        return super().architecture().model_copy(update=changes)

    def has_qk_norm(self) -> bool:
        return True
