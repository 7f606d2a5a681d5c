"""A random llama small enough to search over in seconds, as files on disk; made without transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.tiny_models import byte_tokenizer

_VOCAB, _HIDDEN, _INTERMEDIATE, _LAYERS, _HEADS, _KV_HEADS, _HEAD_DIM = 320, 128, 256, 2, 4, 2, 32


def save_tiny_llama(folder: Path) -> Path:
    """Into `folder`, which is made: config.json, model.safetensors in bf16, a byte-level tokenizer."""
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "vocab_size": _VOCAB,
        "hidden_size": _HIDDEN,
        "intermediate_size": _INTERMEDIATE,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_DIM,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_file({name: _random(*shape) for name, shape in _shapes()}, folder / "model.safetensors")
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (_VOCAB, _HIDDEN)
    for layer in (f"model.layers.{index}" for index in range(_LAYERS)):
        yield f"{layer}.input_layernorm.weight", (_HIDDEN,)
        yield f"{layer}.self_attn.q_proj.weight", (_HEADS * _HEAD_DIM, _HIDDEN)
        for name in ("k_proj", "v_proj"):
            yield f"{layer}.self_attn.{name}.weight", (_KV_HEADS * _HEAD_DIM, _HIDDEN)
        yield f"{layer}.self_attn.o_proj.weight", (_HIDDEN, _HEADS * _HEAD_DIM)
        yield f"{layer}.post_attention_layernorm.weight", (_HIDDEN,)
        for name in ("gate_proj", "up_proj"):
            yield f"{layer}.mlp.{name}.weight", (_INTERMEDIATE, _HIDDEN)
        yield f"{layer}.mlp.down_proj.weight", (_HIDDEN, _INTERMEDIATE)
    yield "model.norm.weight", (_HIDDEN,)
    yield "lm_head.weight", (_VOCAB, _HIDDEN)


def _random(*shape: int) -> torch.Tensor:
    # Logits far enough from 0 that what is done to the weights shows.
    values = torch.rand(shape) + 0.5 if len(shape) == 1 else torch.randn(shape) * 2 * shape[-1] ** -0.5
    return values.to(torch.bfloat16)
