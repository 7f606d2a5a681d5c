"""Tiny models, a byte-level tokenizer and a chat template: what many tests search, serve or break."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, MixtralForCausalLM, PreTrainedModel

SPECIAL_TOKENS = ("<s>", "</s>", "<|user|>", "<|assistant|>")
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}<|assistant|>"
#: of a config of transformers: two layers, two queries to a key, room for 256 tokens
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def byte_tokenizer(special_tokens: Sequence[str] = SPECIAL_TOKENS) -> Tokenizer:
    """The special tokens, then one token for each byte."""
    pieces = [*special_tokens, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special_tokens))
    return tokenizer


def random_llama(vocab_size: int, **sizes: int) -> LlamaForCausalLM:
    """A llama of SIZES, or of other `sizes`, as transformers initializes it; always the same one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **SIZES | sizes))


def random_mixtral(vocab_size: int) -> MixtralForCausalLM:
    """A mixtral of SIZES with four experts."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(vocab_size=vocab_size, **SIZES, num_local_experts=4))


def save_tiny(folder: Path, model: PreTrainedModel, tokenizer: Tokenizer | None = None, template: str = TEMPLATE) -> Path:
    """Into `folder`: the checkpoint, the tokenizer (`byte_tokenizer` if none is given) and the chat template."""
    model.save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(template)
    return folder


def write_lora(folder: Path, **config: object) -> None:
    """An adapter of rank 1 of one projection of a llama of SIZES, as peft saves it; `config` is beside that."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    stated = {"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(stated))
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    halves = {f"{module}.lora_A.weight": torch.ones(1, 64), f"{module}.lora_B.weight": torch.ones(64, 1)}
    save_file(halves, folder / "adapter_model.safetensors")
