"""Tokenizers rebuilt from GGUF metadata: against sentencepiece itself, and against tokenizers that transformers builds."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GPT2Tokenizer, Qwen2Tokenizer

from optimizer.importers.gguf_tokenizer import special_tokens, tokenizer_json

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and then it doesn't; we'll see whether THEY'VE noticed 12345 times.",
    "for i in range(10):\n    print(f'{i:04d}')\n\n\nif x == 3.14159:  return  None",
    "Füße, naïve café, Привет мир, 你好世界, emoji 😀😃, tabs\tand\r\nlines",
] * 20

TEXTS = [
    "Hello world",
    " leading and  double  spaces ",
    "12345 and 3.14, 2024-01-01",
    "don't WE'LL they'Ve",
    "Füße naïve 你好 😀 Привет",
    "a\n\n  b\t\tc\r\nd",
    "",
]


def byte_level_trained() -> Tokenizer:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False))
    return trained


@pytest.fixture(scope="module")
def byte_level() -> dict[str, Any]:
    """Metadata of a small byte-level BPE with two control tokens and one user-defined token."""
    vocab, merges = _vocab_and_merges(byte_level_trained())
    tokens = [*vocab, "<|begin|>", "<|end|>", "<think>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [*[1] * len(vocab), 3, 3, 4],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": len(vocab),
        "tokenizer.ggml.eos_token_id": len(vocab) + 1,
    }


def _vocab_and_merges(tokenizer: Tokenizer) -> tuple[list[str], list[tuple[str, str]]]:
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(pair) for pair in model["merges"]]


def rebuilt(metadata: dict[str, Any], **changes: Any) -> Tokenizer:
    changed = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return Tokenizer.from_str(tokenizer_json(metadata | changed))


@pytest.mark.parametrize(("pre", "theirs"), [("gpt-2", GPT2Tokenizer), ("qwen2", Qwen2Tokenizer)])
def test_byte_level_is_transformers(pre: str, theirs: type, byte_level: dict[str, Any]) -> None:
    tokens = byte_level["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in byte_level["tokenizer.ggml.merges"]]
    expected = theirs(vocab={t: i for i, t in enumerate(tokens)}, merges=merges)
    found = rebuilt(byte_level, pre=pre)
    for text in TEXTS + CORPUS[:3]:
        ids = found.encode(text, add_special_tokens=False).ids
        assert ids == expected(text, add_special_tokens=False).input_ids
        assert found.decode(ids) == text


@settings(max_examples=50)
@given(text=st.text(max_size=40))
@pytest.mark.parametrize("pre", ["default", "smollm", "llama-bpe"])
def test_byte_level_round_trips(pre: str, text: str, byte_level: dict[str, Any]) -> None:
    tokenizer = rebuilt(byte_level, pre=pre)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["It", "Ġ12345", "'ll", "ĠĠ", "Ġdo"]),
        ("default", ["It", "Ġ", "123", "45", "'", "ll", "ĠĠ", "Ġdo"]),
        ("smollm", ["It", "Ġ", "1", "2", "3", "4", "5", "'ll", "ĠĠ", "Ġdo"]),
        ("llama-bpe", ["It", "Ġ", "123", "45", "'ll", "ĠĠ", "Ġdo"]),
        ("qwen2", ["It", "Ġ", "1", "2", "3", "4", "5", "'ll", "ĠĠ", "Ġdo"]),
    ],
)
def test_words_are_split_as_the_merges_were_learned(pre: str, words: list[str], byte_level: dict[str, Any]) -> None:
    split = rebuilt(byte_level, pre=pre).pre_tokenizer
    assert [word for word, _ in split.pre_tokenize_str("It 12345'll   do")] == words


def test_special_tokens_stay_whole(byte_level: dict[str, Any]) -> None:
    tokenizer = rebuilt(byte_level, pre="smollm")
    bos = byte_level["tokenizer.ggml.bos_token_id"]
    encoded = tokenizer.encode("<|begin|>a<think>b<|end|>", add_special_tokens=False)
    assert encoded.tokens == ["<|begin|>", "a", "<think>", "b", "<|end|>"]
    assert tokenizer.decode(encoded.ids) == "a<think>b"
    assert tokenizer.get_vocab_size() == bos + 3


@pytest.mark.parametrize(
    ("changes", "added"),
    [
        ({}, ()),
        ({"pre": "llama-bpe"}, ("<|begin|>",)),
        ({"pre": "llama-bpe", "add_bos_token": False}, ()),
        ({"add_bos_token": True, "add_eos_token": True}, ("<|begin|>", "<|end|>")),
        ({"add_eos_token": True}, ("<|end|>",)),
    ],
)
def test_bos_and_eos_are_added_as_the_file_says(
    changes: dict[str, Any], added: tuple[str, ...], byte_level: dict[str, Any]
) -> None:
    tokens = rebuilt(byte_level, **changes).encode("x").tokens
    assert tuple(token for token in tokens if token != "x") == added
    assert ("<|begin|>" not in added) or tokens[0] == "<|begin|>"
    assert ("<|end|>" not in added) or tokens[-1] == "<|end|>"


def test_llama_bpe_takes_whole_words_from_the_vocabulary() -> None:
    """Llama 3's vocabulary has words that its merges do not reach."""
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b", "c", "ab", "abc"],
        "tokenizer.ggml.merges": ["a b"],
    }
    assert rebuilt(metadata, pre="llama-bpe").encode("abc").tokens == ["abc"]
    assert rebuilt(metadata, pre="default").encode("abc").tokens == ["ab", "c"]


def test_generation_config_has_strings_and_ids(byte_level: dict[str, Any]) -> None:
    bos = byte_level["tokenizer.ggml.bos_token_id"]
    expected = {"bos_token": "<|begin|>", "bos_token_id": bos, "eos_token": "<|end|>", "eos_token_id": bos + 1}
    assert special_tokens(byte_level) == expected
    both = special_tokens(byte_level | {"tokenizer.ggml.eot_token_id": bos + 2})
    assert both["eos_token_id"] == [bos + 1, bos + 2]


@pytest.fixture(scope="module")
def sentencepiece() -> Any:
    """A BPE model with byte fallback, trained as Llama's was."""
    spm = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        model_type="bpe",
        vocab_size=480,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        minloglevel=2,
    )
    return spm.SentencePieceProcessor(model_proto=model.getvalue())


def sentencepiece_metadata(spm: Any) -> dict[str, Any]:
    """What llama.cpp's converter writes for a sentencepiece model."""

    def kind(i: int) -> int:
        return 2 if spm.is_unknown(i) else 3 if spm.is_control(i) else 6 if spm.is_byte(i) else 1

    ids = range(len(spm))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [spm.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [spm.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": [kind(i) for i in ids],
        "tokenizer.ggml.bos_token_id": spm.bos_id(),
        "tokenizer.ggml.eos_token_id": spm.eos_id(),
    }


@pytest.mark.parametrize("text", TEXTS[:-1] + CORPUS[:3])
def test_sentencepiece(text: str, sentencepiece: Any) -> None:
    tokenizer = rebuilt(sentencepiece_metadata(sentencepiece))
    expected = sentencepiece.encode(text)
    assert tokenizer.encode(text, add_special_tokens=False).ids == expected
    assert tokenizer.encode(text).ids == [sentencepiece.bos_id(), *expected]
    assert tokenizer.decode(expected) == text


@settings(max_examples=100)
@given(text=st.text(alphabet=st.sampled_from("thequick brownfox12.é你😀'\n"), min_size=1, max_size=60))
def test_sentencepiece_on_any_text(text: str, sentencepiece: Any) -> None:
    tokenizer = rebuilt(sentencepiece_metadata(sentencepiece))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == sentencepiece.encode(text)
    assert tokenizer.decode(ids) == text


def test_a_model_file_without_a_space_prefix(sentencepiece: Any) -> None:
    tokenizer = rebuilt(sentencepiece_metadata(sentencepiece), add_space_prefix=False)
    encoded = tokenizer.encode("the fox", add_special_tokens=False)
    assert not encoded.tokens[0].startswith("▁")
    assert tokenizer.decode(encoded.ids) == "the fox"
