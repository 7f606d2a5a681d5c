"""Vocabularies of GGUF files that differ from what they say: types, scores, what begins a text. Cases are of public reports.

Each is compared with a reading of the file's tokens of its own: words by the `regex` package or none, joined by a search for
the best pair, which is what sentencepiece and llama.cpp document.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from optimizer.exporters.gguf_vocabulary import vocabulary_metadata
from optimizer.importers import DamagedFile, MissingTokenizer, UnsupportedTokenizer
from optimizer.importers.gguf_tokenizer import special_tokens, tokenizer_json, tokenizer_notes

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
LETTERS = [chr(c) for c in range(0x21, 0x7F)] + ["Ġ", "Ċ"]


def byte_level(**extra: int) -> dict[str, Any]:
    """A byte-level vocabulary of printable ASCII, then `extra` tokens of their types."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*LETTERS, *extra],
        "tokenizer.ggml.token_type": [*[NORMAL] * len(LETTERS), *extra.values()],
        "tokenizer.ggml.merges": [],
    }


def keyed(metadata: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """With keys under tokenizer.ggml changed, or (None) removed."""
    changed = metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return {key: value for key, value in changed.items() if value is not None}


def read(metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_json(metadata))


def pieces(metadata: dict[str, Any], text: str) -> list[str]:
    tokenizer = read(metadata)
    return [tokenizer.id_to_token(i) for i in tokenizer.encode(text, add_special_tokens=False).ids]


# https://github.com/ggml-org/llama.cpp/issues/23183 and https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/2160
@pytest.mark.parametrize(
    ("tokens", "special"),
    [
        ({"<|im_end|>": NORMAL}, {"<|im_end|>"}),
        ({"<|im_end|>": USER_DEFINED}, {"<|im_end|>"}),
        ({"<|eot_id|>": NORMAL, "<|eom_id|>": NORMAL, "<end_of_turn>": UNUSED}, {"<|eot_id|>", "<|eom_id|>", "<end_of_turn>"}),
        ({"</s>": NORMAL, "<|endoftext|>": NORMAL, "[EOT]": NORMAL}, {"</s>", "<|endoftext|>", "[EOT]"}),
        ({"<\uff5cend\u2581of\u2581sentence\uff5c>": NORMAL}, {"<\uff5cend\u2581of\u2581sentence\uff5c>"}),
        # a start of turn is what the file says: no role is known by its name
        ({"<|im_start|>": CONTROL, "<|user|>": NORMAL}, {"<|im_start|>"}),
        # parts of a harmony answer are shown, and <|end|> ends one of them (https://github.com/ggml-org/llama.cpp/pull/15091)
        ({"<|end|>": CONTROL, "<|return|>": CONTROL, "<|call|>": NORMAL, "<|channel|>": CONTROL}, {"<|return|>", "<|call|>"}),
        ({"<|end|>": NORMAL, "<|flush|>": NORMAL, "<|calls|>": NORMAL}, {"<|flush|>", "<|calls|>"}),
        ({"<|end|>": NORMAL, "<|return|>": CONTROL}, {"<|end|>", "<|return|>"}),
        ({"</s>": CONTROL, "<|tool_response>": NORMAL}, {"<|tool_response>"}),
        ({"<|fim_prefix|>": USER_DEFINED, "<|file_sep|>": NORMAL}, {"<|fim_prefix|>", "<|file_sep|>"}),
    ],
)
def test_ends_of_turns_are_control_tokens_by_name(tokens: dict[str, int], special: set[str]) -> None:
    metadata = byte_level(**tokens)
    added = {token.content: token.special for token in read(metadata).get_added_tokens_decoder().values()}
    assert {text for text, is_special in added.items() if is_special} == special
    for text in special:
        assert pieces(metadata, f"a{text}b") == ["a", text, "b"]
    said = " ".join(tokenizer_notes(metadata))
    changed = [t for t, kind in tokens.items() if (t in special) != (kind == CONTROL)]
    assert all(text in said for text in changed) and bool(said) == bool(changed)


def test_an_infill_token_that_a_key_names_keeps_other_names_as_they_are() -> None:
    tokens = {"<|fim_prefix|>": NORMAL, "<PRE>": CONTROL}
    metadata = keyed(byte_level(**tokens), fim_pre_token_id=len(LETTERS) + 1)
    assert len(pieces(metadata, "<|fim_prefix|>")) > 1 and not tokenizer_notes(metadata)


def test_many_changed_types_are_one_note() -> None:
    names = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|end|>", "</s>")
    (note,) = tokenizer_notes(byte_level(**dict.fromkeys(names, NORMAL)))
    assert note.startswith("<|im_end|>, <|eot_id|>, <|endoftext|> and 2 more are typed NORMAL in the file, but CONTROL")


def test_a_type_that_is_none_is_an_ordinary_token() -> None:
    assert pieces(byte_level(**{"<x>": 0, "<y>": 9}), "<x>") == ["<", "x", ">"]


# https://github.com/ngxson/wllama/issues/41, https://github.com/microsoft/BitNet/pull/508
@pytest.mark.parametrize("pre", [None, ""])
def test_a_file_that_does_not_say_how_text_is_split(pre: str | None) -> None:
    metadata = keyed(
        byte_level(), pre=pre, merges=["1 2", "12 3", "' s"], tokens=[*LETTERS, "12", "123", "'s"], token_type=None
    )
    (note,) = tokenizer_notes(metadata)
    assert "does not say how text is split" in note and "llama.cpp's default" in note and "convert the model again" in note
    assert pieces(metadata, "it's 1234") == ["i", "t", "'", "s", "Ġ", "123", "4"]
    assert pieces(metadata, "it's 1234") == pieces(keyed(metadata, pre="default"), "it's 1234")
    assert not tokenizer_notes(keyed(metadata, pre="default"))


# https://github.com/ggml-org/llama.cpp/issues/11341, https://github.com/ggml-org/llama.cpp/issues/8225
@pytest.mark.parametrize("pre", ["deepseek-r1-qwen", "megrez", "llama3", "llama-v3", "falcon3", "viking", "gpt-4o", "tekken"])
def test_what_begins_a_text_where_the_file_is_silent(pre: str) -> None:
    metadata = keyed(byte_level(**{"<s>": CONTROL}), pre=pre, bos_token_id=len(LETTERS))
    begins = pre in ("llama3", "llama-v3", "falcon3", "tekken")
    assert read(metadata).encode("a").tokens == (["<s>", "a"] if begins else ["a"])
    (note,) = tokenizer_notes(keyed(metadata, bos_token_id=None)) if begins else ("names none",)
    assert "names none" in note


def test_a_vocabulary_word_whose_merges_do_not_make_it() -> None:
    metadata = keyed(byte_level(**{"abc": NORMAL}), merges=["a b"], tokens=[*LETTERS, "ab", "abc"], token_type=None)
    for pre, found in {"llama3": ["abc"], "tekken": ["abc"], "dbrx": ["ab", "c"], "qwen2": ["ab", "c"]}.items():
        assert pieces(keyed(metadata, pre=pre), "abc") == found


def test_the_first_of_two_equal_merges_counts() -> None:
    metadata = keyed(byte_level(**{"ab": NORMAL, "bc": NORMAL}), merges=["a b", "b c", "a b"])
    assert pieces(metadata, "abc") == ["ab", "c"]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        # https://github.com/ggml-org/llama.cpp/issues/25739
        ({"tokens": [*LETTERS, "a"], "token_type": None}, DamagedFile, "must differ, but 64 and 96 are both 'a'"),
        ({"merges": ["ab"]}, DamagedFile, "merges must be pairs with a space between, got 'ab'"),
        # https://github.com/ollama/ollama/issues/10930
        ({"merges": None}, MissingTokenizer, r"lacks 'tokenizer\.ggml\.merges'"),
        ({"add_eos_token": True}, DamagedFile, r"add_eos_token is true, but tokenizer\.ggml\.eos_token_id is not there"),
        ({"model": "bert"}, UnsupportedTokenizer, r"must be one of gpt2, llama, t5, gemma4, got 'bert' \(word pieces"),
        ({"model": "rwkv"}, UnsupportedTokenizer, r"got 'rwkv' \(a longest match"),
        ({"model": "other"}, UnsupportedTokenizer, r"got 'other'$"),
        ({"model": "no_vocab"}, MissingTokenizer, "holds no tokenizer"),
    ],
)
def test_refused(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        tokenizer_json(keyed(byte_level(), **changes))


def test_an_empty_token_has_a_name_of_its_own() -> None:
    assert read(byte_level(**{"": NORMAL})).id_to_token(len(LETTERS)) == f"[EMPTY_{len(LETTERS)}]"


# https://github.com/ggml-org/llama.cpp/pull/6852, https://github.com/huggingface/transformers/issues/32136
@pytest.mark.parametrize(("name", "tokens"), [("Phi-3 Mini", ["<|user|>", "a"]), ("Other", ["<|user|>", "Ġ", "Ċ", "a"])])
def test_special_tokens_of_phi_3_take_the_spaces_behind_them(name: str, tokens: list[str]) -> None:
    metadata = byte_level(**{"<|user|>": CONTROL}) | {"general.name": name}
    assert pieces(metadata, "<|user|> \na") == tokens


def spm(*scored: tuple[str, float], **changes: Any) -> dict[str, Any]:
    """Sentencepiece's three control tokens, 256 bytes, then `scored` pieces."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *(piece for piece, _ in scored)]
    return keyed(
        {"tokenizer.ggml.model": "llama"},
        tokens=tokens,
        token_type=[UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(scored)],
        scores=[0.0] * 259 + [score for _, score in scored],
    ) | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def joined(metadata: dict[str, Any], text: str) -> list[str]:
    """As documented: the pair of neighbours whose text is the token of the best score, the leftmost of equals; then bytes."""
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    score = dict(zip(tokens, scores, strict=True))
    symbols = list(text.replace(" ", "▁"))
    if metadata.get("tokenizer.ggml.add_space_prefix", True) and text:
        symbols.insert(0, "▁")
    while pairs := [(score[a + b], -i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in score]:
        at = -max(pairs)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    spread = [[s] if s in score else [f"<0x{byte:02X}>" for byte in s.encode()] for s in symbols]
    return [token for part in spread for token in part]


@settings(max_examples=80)
@given(
    words=st.lists(st.text(alphabet="ab▁c", min_size=2, max_size=3), unique=True, max_size=12),
    order=st.randoms(use_true_random=False),
    text=st.text(alphabet="abc d\n", max_size=16),
    prefix=st.booleans(),
)
def test_pieces_are_joined_by_their_scores(words: list[str], order: Any, text: str, prefix: bool) -> None:
    scores = [-float(i) for i in range(len(words) + 4)]
    order.shuffle(scores)
    metadata = spm(*zip([*"abc▁", *words], scores, strict=True), add_space_prefix=prefix)
    assume(text == "" or not text.isspace())
    assert pieces(metadata, text) == joined(metadata, text)


def test_a_user_defined_run_of_spaces_is_joined_like_any_piece() -> None:
    metadata = spm(("▁", -9.0), ("a", -8.0), ("▁▁", -1.0), ("▁▁▁", -2.0))
    metadata["tokenizer.ggml.token_type"][-2:] = [USER_DEFINED, USER_DEFINED]
    assert pieces(metadata, "a   a") == joined(metadata, "a   a") == ["▁", "a", "▁▁▁", "a"]


@pytest.mark.parametrize(
    ("pieces_", "message"),
    [
        # https://github.com/ggml-org/llama.cpp/issues/7476: old files give other tokens, and nobody says so
        ([("a", 0.0), ("b", 0.0), ("c", 0.0), ("ab", -1000.0), ("bc", -1000.0)], "'ab' and 'bc' both have -1000.0"),
        ([("a", 0.0), ("aé", -1.0)], "'aé' is there and 'é' is not"),
    ],
)
def test_scores_that_merges_cannot_say_are_refused(pieces_: list[tuple[str, float]], message: str) -> None:
    with pytest.raises(UnsupportedTokenizer, match=message):
        tokenizer_json(spm(*pieces_))


def test_equal_scores_of_what_is_never_joined_are_nobodys_business() -> None:
    metadata = spm(("a", 0.0), ("b", 0.0), ("\n\n", -1000.0), ("<|x|>", -1000.0), ("ab", -1.0))
    metadata["tokenizer.ggml.token_type"][-3:-1] = [USER_DEFINED, CONTROL]
    assert pieces(keyed(metadata, add_space_prefix=False), "\n\nab<|x|>") == ["\n\n", "ab", "<|x|>"]


def test_sentencepiece_has_ids_for_bos_and_eos_where_a_file_has_none() -> None:
    metadata = spm(("a", 0.0), add_space_prefix=False)
    assert read(metadata).encode("a").tokens == ["<s>", "a"]
    assert special_tokens(metadata) == {"bos_token": "<s>", "bos_token_id": 1, "eos_token": "</s>", "eos_token_id": 2}
    assert read(keyed(metadata, add_bos_token=False)).encode("a").tokens == ["a"]


def test_pieces_without_types_are_ordinary() -> None:
    assert pieces(keyed(spm(("a", 0.0), ("b", -1.0), ("ab", -2.0)), token_type=None, add_space_prefix=False), "ab") == ["ab"]


def test_how_text_is_split_is_no_matter_of_sentencepieces() -> None:
    metadata = spm(("a", 0.0), pre="anything")
    assert pieces(metadata, "a") == ["<0xE2>", "<0x96>", "<0x81>", "a"] and not tokenizer_notes(metadata)


@pytest.mark.parametrize(
    "pre", ["gpt-2", "default", "llama3", "dbrx", "deepseek-r1-qwen", "stablelm2", "tekken", "deepseek-v3"]
)
def test_an_export_says_what_the_import_read(pre: str) -> None:
    metadata = keyed(byte_level(**{"<s>": CONTROL, "</s>": CONTROL}), pre=pre, bos_token_id=96, eos_token_id=97)
    written = vocabulary_metadata(tokenizer_json(metadata), 98, special_tokens(metadata), None)
    assert tokenizer_json(written) == tokenizer_json(metadata)
    assert written["tokenizer.ggml.pre"] == {"llama3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}.get(pre, pre)
