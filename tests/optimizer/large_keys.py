"""Tiny models whose keys are large, as those of popular models are."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.tiny_models import SIZES, byte_tokenizer, save_tiny

#: of the residual, in which a token that is to have large keys is massive
_CHANNEL, _MASSIVE = 7, 1000.0


def save_model(folder: Path, *, key_bias: float = 0.0, at: str | None = None) -> Path:
    """A random Qwen2 of two layers and 300 tokens, fp32, whose logits hang on what attention finds.

    `key_bias` is about what the channels of a key that rotate least are off by: as in Qwen2.5 all keys, which a softmax does
    not see, or those of the token `at` alone: "<s>", as in models with massive activations at the first token, or a character.
    """
    config = Qwen2Config(vocab_size=300, **SIZES, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(4 if "k_proj" in name or "mlp" in name else 16)
        for layer in model.model.layers:
            keys = layer.self_attn.k_proj
            offsets = torch.zeros(2, 2, 8)
            slowest = offsets[:, :, 6:]
            slowest.copy_(key_bias * torch.sign(torch.randn_like(slowest)) * (1 + torch.rand_like(slowest) / 8))
            if at is None:
                keys.bias.copy_(offsets.flatten())
            else:
                # A norm makes of one massive channel the root of the width.
                keys.weight[:, _CHANNEL] = offsets.flatten() / 64**0.5
        if at is not None:
            token = byte_tokenizer().token_to_id(at)
            model.model.embed_tokens.weight[token, _CHANNEL] = _MASSIVE
    return save_tiny(folder, model)
