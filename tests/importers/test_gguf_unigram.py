"""Sentencepiece's unigram model from a GGUF file of kind t5, against sentencepiece itself."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from optimizer.importers import UnsupportedTokenizer
from optimizer.importers.gguf_tokenizer import special_tokens, tokenizer_json
from tests.importers.test_gguf_tokenizer import CORPUS, TEXTS
from tests.importers.test_gguf_vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, keyed, read

KINDS = [("identity", False), ("nmt_nfkc", True)]


@cache
def trained(rule: str, removes_spaces: bool) -> tuple[Any, dict[str, Any]]:
    """The model, and what llama.cpp's converter writes of it."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        model_type="unigram",
        vocab_size=120,
        normalization_rule_name=rule,
        remove_extra_whitespaces=removes_spaces,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    spm = SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(len(spm))
    charsmap = ModelProto.FromString(model.getvalue()).normalizer_spec.precompiled_charsmap
    kinds = [UNKNOWN if spm.is_unknown(i) else CONTROL if spm.is_control(i) else NORMAL for i in ids]
    metadata = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [spm.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [spm.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": removes_spaces,
        "tokenizer.ggml.precompiled_charsmap": [byte - 256 if byte > 127 else byte for byte in charsmap] or None,
    }
    return spm, keyed(metadata)


@pytest.mark.parametrize(("rule", "removes_spaces"), KINDS)
def test_texts(rule: str, removes_spaces: bool) -> None:
    spm, metadata = trained(rule, removes_spaces)
    tokenizer = read(metadata)
    for text in [*TEXTS, *CORPUS[:3], "\ufb01ne \u2460 \uff21  b"]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == spm.encode(text), text
        assert tokenizer.decode(ids) == spm.decode(ids).replace(" \u2047 ", "")
    assert tokenizer.encode("the").ids == [*spm.encode("the"), 1]
    assert special_tokens(metadata) == {"eos_token": "</s>", "eos_token_id": 1}


@pytest.mark.parametrize(("rule", "removes_spaces"), KINDS)
@settings(max_examples=60)
@given(text=st.text(alphabet="thequick brownfox12.é你'", max_size=30).filter(lambda text: not text or text.strip()))
def test_any_text(rule: str, removes_spaces: bool, text: str) -> None:
    spm, metadata = trained(rule, removes_spaces)
    assert read(metadata).encode(text, add_special_tokens=False).ids == spm.encode(text)


def test_byte_tokens_are_refused() -> None:
    metadata = {"tokenizer.ggml.model": "t5", "tokenizer.ggml.tokens": ["<pad>", "</s>", "<unk>", "<0x41>"]}
    with pytest.raises(UnsupportedTokenizer, match="must have no tokens of type BYTE"):
        tokenizer_json(keyed(metadata, scores=[0.0] * 4, token_type=[CONTROL, CONTROL, UNKNOWN, BYTE]))
