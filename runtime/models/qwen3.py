"""Qwen3 (Yang et al. 2025): Qwen2's windows, RMSNorm on each head of q and k, optional biases."""

from __future__ import annotations

from pydantic import PositiveInt

from runtime.models.qwen2 import Qwen2Config


class Qwen3Config(Qwen2Config):
    head_dim: PositiveInt | None = 128
    attention_bias: bool = False

    def has_qkv_bias(self) -> bool:
        return self.attention_bias

    def has_output_bias(self) -> bool:
        return self.attention_bias

    def has_qk_norm(self) -> bool:
        return True
