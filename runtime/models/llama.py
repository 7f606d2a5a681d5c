"""Llama (Touvron et al. 2023) and what shares its config: SmolLM, TinyLlama, Yi, ..."""

from __future__ import annotations

from runtime.models.hf_config import HfConfig


class LlamaConfig(HfConfig):
    attention_bias: bool = False
    mlp_bias: bool = False

    def has_qkv_bias(self) -> bool:
        return self.attention_bias

    def has_output_bias(self) -> bool:
        return self.attention_bias

    def has_mlp_bias(self) -> bool:
        return self.mlp_bias
