"""How few tokens a text can be, against what tokenizers makes of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from runtime.server.text_bounds import largest_body, text_bound
from tests.server.conftest import make_tokenizer


def byte_level(normalizer: Any = None, cut: Any = None) -> Tokenizer:
    tokenizer = make_tokenizer()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if cut is not None:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    return tokenizer


def falling_back() -> Tokenizer:
    """As of Llama 2: a space is a character of the vocabulary, what is unknown is bytes."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + ["\u2581", "a", "b", "ab", "\u2581ab", "你好"]
    merges = [("a", "b"), ("\u2581", "ab")]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.ByteFallback()
    return tokenizer


def incomplete() -> Tokenizer:
    """A byte-level vocabulary without some bytes, which then leave no trace."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())[5:]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


BOUNDED = {
    "byte level": byte_level(),
    "NFC": byte_level(normalizers.NFC()),
    "cut": byte_level(cut=pre_tokenizers.Split(Regex(r"\d|\s+"), "isolated")),
    "falls back": falling_back(),
    "incomplete": incomplete(),
}


@pytest.mark.parametrize("kind", BOUNDED)
@given(
    text=st.text(max_size=80)
    | st.text(' ab!"\u03b9\u0308\u0301\u1100\u1161\u11a8你好', max_size=80)
    | st.integers(1, 40).map(lambda n: "\u03b9\u0308\u0301" * n)
)
def test_no_text_is_fewer_tokens_than_its_bound(kind: str, text: str) -> None:
    tokenizer = BOUNDED[kind]
    bound = text_bound(tokenizer)
    assert bound is not None
    assert bound.min_num_tokens(text) <= len(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize(
    "tokenizer",
    [
        byte_level(normalizers.Strip()),
        byte_level(normalizers.Replace(Regex(" +"), " ")),
        byte_level(normalizers.Replace(" ", "")),
        byte_level(cut=pre_tokenizers.Split(" ", "removed")),
        byte_level(cut=pre_tokenizers.WhitespaceSplit()),
        Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")),
        Tokenizer(models.BPE({"a": 0}, [])),
    ],
)
def test_where_text_can_vanish_there_is_no_bound(tokenizer: Tokenizer) -> None:
    assert text_bound(tokenizer) is None
    assert largest_body(None, 2048) == 6 * 128 * 2048


def test_the_largest_body_holds_any_prompt_of_a_usual_context() -> None:
    bound = text_bound(make_tokenizer())
    assert bound is not None
    assert largest_body(bound, 512) == 2**20
    assert largest_body(bound, 20_000) == 6 * bound.bytes_per_token * 20_000
    assert largest_body(bound, 1_000_000) == 2**22
