"""A tiny llama that has learned something: its next token follows from the last one and the fourth before it.

A model of random weights hardly looks back and hardly prefers a token, so that much can be broken in it unseen. This one needs
its attention, its positions and every layer. 15 % of its text is noise, so that what it writes does not repeat itself.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import processors
from transformers import LlamaForCausalLM

from tests.tiny_models import SPECIAL_TOKENS, TEMPLATE, byte_tokenizer, random_llama, save_tiny

_NUM_SYMBOLS, _NOISE, _STEPS = 16, 0.15, 250


def save_toy(folder: Path) -> Path:
    """A trained checkpoint with a byte-level tokenizer that begins texts with <s>, and a chat template."""
    model = random_llama(260)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.copy_(torch.exp(0.4 * torch.randn_like(parameter)))  # no two gains alike, as in a real model
    _train(model)
    tokenizer = byte_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return save_tiny(folder, model, tokenizer, f"<s>{TEMPLATE}")


def _train(model: LlamaForCausalLM) -> None:
    draw = torch.Generator().manual_seed(1)
    following = torch.randint(0, _NUM_SYMBOLS, (_NUM_SYMBOLS, _NUM_SYMBOLS), generator=draw)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(_STEPS):
        symbols = torch.randint(0, _NUM_SYMBOLS, (8, 48), generator=draw)
        is_noise = torch.rand(8, 48, generator=draw) < _NOISE
        for at in range(4, 48):
            known = following[symbols[:, at - 1], symbols[:, at - 4]]
            symbols[:, at] = torch.where(is_noise[:, at], symbols[:, at], known)
        ids = torch.nn.functional.pad(symbols + len(SPECIAL_TOKENS), (1, 0))
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
