"""A tiny llama that has learned something: its next token follows from the last one and the fourth before it.

A model of random weights hardly looks back and hardly prefers a token, so that much can be broken in it unseen. This one needs
its attention, its positions and every layer. 15 % of its text is noise, so that what it writes does not repeat itself.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL_TOKENS = ["<s>", "</s>", "<|user|>", "<|assistant|>"]
TEMPLATE = "<s>{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}<|assistant|>"
_NUM_SYMBOLS, _NOISE, _STEPS = 16, 0.15, 250


def save_toy(folder: Path) -> Path:
    """A trained checkpoint with a byte-level tokenizer that begins texts with <s>, and a chat template."""
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.copy_(torch.exp(0.4 * torch.randn_like(parameter)))  # no two gains alike, as in a real model
    _train(model)
    model.save_pretrained(folder)
    pieces = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


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
