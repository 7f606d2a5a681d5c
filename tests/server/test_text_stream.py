"""Deltas against the tokenizer's own full decode, for any tokens and any chunking."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from runtime.text_stream import StopStrings, TextStream, Vocabulary

WORDS = ["hello", "world", "!", "é", "你好", "a", "b", "\ufffd"]


def byte_level_tokenizer() -> Tokenizer:
    """GPT-2's kind: all bytes, some merged into words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, "Ġhello", "ĠðŁĺ", "Ģ", "é", "ä½łå"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<|end|>"])
    tokenizer.add_tokens([AddedToken("plain added é", special=False)])
    return tokenizer


def sentencepiece_tokenizer() -> Tokenizer:
    """Llama 2's kind: words that start with U+2581, bytes as a fallback, the first space stripped."""
    pieces = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), *("\u2581" + w for w in WORDS), *WORDS, "\u2581", "\u2581\u2581"]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def metaspace_tokenizer() -> Tokenizer:
    pieces = ["<unk>", *("\u2581" + w for w in WORDS), *WORDS, "\u2581"]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


TOKENIZERS = {f.__name__: f() for f in (byte_level_tokenizer, sentencepiece_tokenizer, metaspace_tokenizer)}
VOCABULARIES = {name: Vocabulary(tokenizer) for name, tokenizer in TOKENIZERS.items()}


def token_ids(data: st.DataObject, name: str, max_size: int) -> list[int]:
    size = TOKENIZERS[name].get_vocab_size()
    interesting = [TOKENIZERS[name].token_to_id(t) for t in ("<0xE4>", "<0xBD>", "<0xA0>", "ä", "½", "ł", "ð", "Ł", "ĺ", "Ģ")]
    near = st.sampled_from([t for t in interesting if t is not None] or [0])
    return data.draw(st.lists(st.one_of(near, st.integers(0, size + 2)), max_size=max_size))


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150)
@given(data=st.data(), skip=st.booleans())
def test_deltas_are_the_full_decode(name: str, data: st.DataObject, skip: bool) -> None:
    ids = token_ids(data, name, 90)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=20)))
    stream = TextStream(VOCABULARIES[name], skip_special_tokens=skip)
    deltas = [stream.push(ids[a:b]) for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    assert "".join(deltas) + stream.flush() == TOKENIZERS[name].decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=100)
@given(data=st.data())
def test_generated_text_continues_its_context(name: str, data: st.DataObject) -> None:
    context, ids = token_ids(data, name, 20), token_ids(data, name, 20)
    stream = TextStream(VOCABULARIES[name], context)
    text = "".join(stream.push([i]) for i in ids) + stream.flush()
    before, whole = (TOKENIZERS[name].decode(x, skip_special_tokens=True) for x in (context, context + ids))
    shared = max(n for n in range(len(before) + 1) if whole.startswith(before[:n]))
    assert text == whole[shared:]


def test_a_character_of_four_byte_tokens_leaves_whole() -> None:
    for name, prefix in (("byte_level_tokenizer", "ðŁĺĢ"), ("sentencepiece_tokenizer", None)):
        tokenizer = TOKENIZERS[name]
        pieces = list(prefix) if prefix else [f"<0x{b:02X}>" for b in "😀".encode()]
        stream = TextStream(VOCABULARIES[name])
        deltas = [stream.push([tokenizer.token_to_id(p)]) for p in pieces] + [stream.push([tokenizer.token_to_id("a")])]
        assert all("\ufffd" not in d for d in deltas)
        assert "".join(deltas) == "😀a"


def test_the_space_after_the_prompt_is_kept_and_the_one_at_the_start_is_not() -> None:
    tokenizer = TOKENIZERS["sentencepiece_tokenizer"]
    world, hello = tokenizer.token_to_id("\u2581world"), tokenizer.token_to_id("\u2581hello")
    assert TextStream(VOCABULARIES["sentencepiece_tokenizer"], [hello]).push([world]) == " world"
    assert TextStream(VOCABULARIES["sentencepiece_tokenizer"]).push([world]) == "world"


def test_token_bytes_add_up_to_the_text() -> None:
    for name, text in (("byte_level_tokenizer", " hello 你"), ("sentencepiece_tokenizer", "你好")):
        ids = TOKENIZERS[name].encode(text).ids
        assert b"".join(VOCABULARIES[name].token_bytes(i) for i in ids).decode() == text


@settings(max_examples=300)
@given(
    text=st.text("ab<", max_size=40),
    stops=st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3),
    include=st.booleans(),
    data=st.data(),
)
def test_stop_strings_do_not_depend_on_chunking(text: str, stops: list[str], include: bool, data: st.DataObject) -> None:
    ends = [(text.index(s) + len(s), -len(s)) for s in stops if s in text]
    end, negative_length = min(ends, default=(len(text), 0))
    expected = text[: end if include else end + negative_length]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    matcher, out = StopStrings(stops, include), ""
    for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True):
        out += matcher.push(text[a:b])
        assert expected.startswith(out), "gave out text that a stop string takes back"
        if matcher.matched:
            break
    assert out + matcher.flush() == expected
    assert (matcher.matched is not None) == bool(ends)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        StopStrings(["a", ""])


def test_the_most_stop_strings_that_a_request_may_have_cost_little() -> None:
    """Held text that begins one of them, and all the others to compare it with."""
    stops = StopStrings(["a" * (225 + i) + "b" for i in range(31)] + ["a" * 255 + "c"])
    stops.push("a" * 255)
    begin_s = time.process_time()
    for _ in range(50):
        stops.push("aa")
    assert (time.process_time() - begin_s) / 50 < 0.005
