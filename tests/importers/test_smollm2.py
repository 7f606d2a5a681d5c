"""The real SmolLM2 in GGUF, against transformers' own conversion of the same file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from artifacts.architecture import Architecture
from artifacts.layer_parts import Rope
from optimizer.importers import Source, open_source
from tests.importers.test_gguf_tokenizer import CORPUS, TEXTS
from tests.importers.test_hf_folder import assert_tensors_equal, joined_state_dict


@pytest.fixture(scope="module")
def source(smollm2_gguf: Path) -> Source:
    return open_source(smollm2_gguf)


def test_architecture(source: Source) -> None:
    """As the model's config.json on its page says."""
    assert source.architecture == Architecture(
        family="llama",
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_layers=30,
        num_q_heads=9,
        num_kv_heads=3,
        head_dim=64,
        max_position=8192,
        rms_norm_eps=1e-5,
        rope=Rope(theta=100000.0),
        tie_embeddings=True,
    )


@pytest.mark.slow
def test_tensors_are_transformers(source: Source, smollm2_gguf: Path) -> None:
    config = AutoConfig.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    loaded = load_gguf_checkpoint(str(smollm2_gguf), return_tensors=True, model_to_load=model)["tensors"]
    state = {name: torch.as_tensor(tensor) for name, tensor in loaded.items()}
    assert_tensors_equal(source, joined_state_dict(state, source.architecture))


def test_tokens_are_transformers(source: Source, smollm2_gguf: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    ours = Tokenizer.from_str(source.tokenizer_json)
    for text in [*TEXTS, *CORPUS[:3], "<|im_start|>user\nHi 42!<|im_end|>\n<|endoftext|>"]:
        assert ours.encode(text).ids == theirs(text).input_ids, text


def test_text_round_trips(source: Source) -> None:
    tokenizer = Tokenizer.from_str(source.tokenizer_json)
    for text in [*TEXTS, *CORPUS[:3], "<|im_start|>user\nnaïve 😀 1234<|im_end|>\n"]:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_digits_stay_single_and_special_tokens_whole(source: Source) -> None:
    tokenizer = Tokenizer.from_str(source.tokenizer_json)
    assert tokenizer.encode("in 2024").tokens == ["in", "Ġ", "2", "0", "2", "4"]
    assert tokenizer.encode("<|im_start|>x<|im_end|>").tokens == ["<|im_start|>", "x", "<|im_end|>"]
    assert tokenizer.get_vocab_size() == 49152


def test_what_the_server_needs(source: Source, smollm2_gguf: Path) -> None:
    expected = {"bos_token": "<|im_start|>", "bos_token_id": 1, "eos_token": "<|im_end|>", "eos_token_id": 2}
    assert source.generation_config == expected
    assert source.chat_template is not None
    assert "<|im_start|>" in source.chat_template
    assert source.sha256() == {smollm2_gguf.name: hashlib.sha256(smollm2_gguf.read_bytes()).hexdigest()}
