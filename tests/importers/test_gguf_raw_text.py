"""Vocabularies of kind gemma4, against the tokenizer that transformers makes of the same tokens and merges."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import GemmaTokenizer

from optimizer.exporters.gguf_vocabulary import vocabulary_metadata
from optimizer.importers import DamagedFile, UnsupportedTokenizer
from optimizer.importers.gguf_tokenizer import special_tokens, tokenizer_json
from tests.importers.test_gguf_tokenizer import CORPUS, TEXTS
from tests.importers.test_gguf_vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, keyed, read

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
IDS = {"bos_token_id": 2, "eos_token_id": 1}


@cache
def trained() -> tuple[GemmaTokenizer, dict[str, Any]]:
    """The tokenizer, and what llama.cpp's converter writes of it."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\n]+|\n+"), "isolated")
    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
    learner.train_from_iterator(
        [*CORPUS, *("\n" * 6 for _ in range(9))],
        trainers.BpeTrainer(vocab_size=600, special_tokens=[*SPECIAL, *bytes_of], show_progress=False),
    )
    vocab = learner.get_vocab()
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    theirs = GemmaTokenizer(vocab=vocab, merges=merges)
    texts = sorted(vocab, key=vocab.__getitem__)
    kinds = {"<unk>": UNKNOWN, **dict.fromkeys(bytes_of, BYTE), **{s: CONTROL for s in SPECIAL if s != "<unk>"}}
    metadata = {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": [-1000.0] * len(texts),
        "tokenizer.ggml.token_type": [kinds.get(text, NORMAL) for text in texts],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.add_bos_token": True,
        **{f"tokenizer.ggml.{key}": value for key, value in IDS.items()},
    }
    return theirs, metadata


def test_texts() -> None:
    theirs, metadata = trained()
    ours = read(metadata)
    for text in (*TEXTS, "a\n\n\nb", "\n" * 40, "  two   spaces \n ", "日本語 😀"):
        assert ours.encode(text).ids == [2, *theirs.encode(text, add_special_tokens=False)], text
        assert ours.decode(ours.encode(text).ids) == text
    assert special_tokens(metadata) == {"bos_token": "<bos>", "eos_token": "<eos>", **IDS}


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("the quick ,.\n\n \té▁日<>0x"), max_size=30))
def test_any_text(text: str) -> None:
    theirs, metadata = trained()
    assert read(metadata).encode(text, add_special_tokens=False).ids == theirs.encode(text, add_special_tokens=False)


def test_what_is_exported_is_what_was_read() -> None:
    _, metadata = trained()
    written = vocabulary_metadata(tokenizer_json(metadata), len(metadata["tokenizer.ggml.tokens"]), IDS, None, "gemma4")
    for key in ("model", "tokens", "token_type", "merges", "add_bos_token", "bos_token_id"):
        assert written[f"tokenizer.ggml.{key}"] == metadata[f"tokenizer.ggml.{key}"], key


def test_texts_begin_with_bos_whatever_the_file_says() -> None:
    """llama.cpp corrects files that say otherwise."""
    _, metadata = trained()
    silent = keyed(metadata, add_bos_token=False)
    assert read(silent).encode("a").ids[0] == 2


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"merges": ["▁"]}, DamagedFile, "merges must be pairs with a space between, got '▁'"),
        ({"merges": ["q 日"]}, DamagedFile, "the tokens and merges do not fit together"),
        ({"merges": []}, UnsupportedTokenizer, "must make one token of .* line breaks, as there is one, but they make"),
    ],
)
def test_what_cannot_be_read(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    _, metadata = trained()
    with pytest.raises(error, match=message):
        read(keyed(metadata, **changes))
