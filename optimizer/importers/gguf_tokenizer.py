"""The tokenizer that a GGUF file describes, rebuilt as a tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf.constants import TokenType
from tokenizers import AddedToken, Tokenizer, processors

from optimizer.importers.byte_level import byte_level_tokenizer
from optimizer.importers.errors import DamagedFile, MissingTokenizer, UnsupportedTokenizer
from optimizer.importers.gguf_sentencepiece import byte_fallback_bpe, raw_text_bpe, unigram
from optimizer.importers.gguf_splits import DEFAULT, named_split
from optimizer.importers.gguf_tokens import ADDED_TYPES, GgufTokens

#: kinds of tokenizer that are not made here, and what they are
REFUSED_KINDS = {
    "bert": "word pieces, an encoder's",
    "hybriddna": "BPE that reads DNA in sixes",
    "plamo2": "a search that no tokenizer.json can say",
    "rwkv": "a longest match of bytes that no tokenizer.json can say",
    "whitespace": "BPE of raw text that drops its spaces",
}
_NO_TOKENIZER = (None, "no_vocab", "none")
#: ids that special tokens have where a file of this kind does not say
_IDS = {"llama": {"bos_token": 1, "eos_token": 2}, "t5": {"eos_token": 1}}


def tokenizer_json(metadata: Mapping[str, Any]) -> str:
    """tokenizer.json for `metadata` of kind `gpt2` (byte-level BPE), `llama` (sentencepiece's BPE), `t5` (its unigram model) or
    `gemma4` (BPE of raw text).

    Control tokens become special tokens and user-defined ones added tokens, so that text never splits them. BOS and EOS
    are added to an encoded text if the file says so; where it is silent llama.cpp's default for the tokenizer decides.
    Raises MissingTokenizer, UnsupportedTokenizer and DamagedFile.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind in _NO_TOKENIZER:
        raise MissingTokenizer("the GGUF file holds no tokenizer (tokenizer.ggml.model, tokenizer.ggml.tokens)")
    builders = {"gpt2": _byte_level_bpe, "llama": byte_fallback_bpe, "t5": unigram, "gemma4": raw_text_bpe}
    if kind not in builders:
        why = f" ({REFUSED_KINDS[kind]})" if kind in REFUSED_KINDS else ""
        raise UnsupportedTokenizer(f"tokenizer.ggml.model must be one of {', '.join(builders)}, got {kind!r}{why}")
    tokens = GgufTokens.read(metadata)
    try:
        tokenizer = builders[kind](metadata, tokens)
    except KeyError as error:
        raise MissingTokenizer(f"the GGUF file's tokenizer lacks {error}") from None
    tokenizer.add_tokens(_added_tokens(metadata, tokens))
    _add_bos_and_eos(tokenizer, metadata)
    return tokenizer.to_str()


def tokenizer_notes(metadata: Mapping[str, Any]) -> list[str]:
    """What of the file's vocabulary is read otherwise than it says, or not said by it, in sentences for the user."""
    notes = GgufTokens.read(metadata).notes
    if metadata["tokenizer.ggml.model"] != "gpt2":
        return notes
    if not metadata.get("tokenizer.ggml.pre"):
        notes.append(
            "the GGUF file does not say how text is split before merging (tokenizer.ggml.pre): llama.cpp's default is used, "
            "which is hardly that of the model, and tokens then differ from those it was trained on; convert the model again"
        )
    if _adds(metadata, "bos_token") and _special_token(metadata, "bos_token") is None:
        notes.append("the GGUF file's kind of tokenizer begins texts with BOS, but it names none: none is added")
    return notes


def special_tokens(metadata: Mapping[str, Any]) -> dict[str, object]:
    """bos_token, eos_token and their ids, as `Source.generation_config` has them; the id of EOS may be a list."""
    special: dict[str, object] = {}
    for name in ("bos_token", "eos_token"):
        if (token := _special_token(metadata, name)) is not None:
            special |= {name: token[0], f"{name}_id": token[1]}
    ends = [_special_token(metadata, name) for name in ("eos_token", "eot_token", "eom_token")]
    ids = list(dict.fromkeys(end[1] for end in ends if end is not None))
    if ids:
        special["eos_token_id"] = ids[0] if len(ids) == 1 else ids
    return special


def _byte_level_bpe(metadata: Mapping[str, Any], tokens: GgufTokens) -> Tokenizer:
    split = named_split(metadata.get("tokenizer.ggml.pre") or DEFAULT)
    vocab = {text: token_id for token_id, text in enumerate(tokens.texts)}
    return byte_level_tokenizer(vocab, metadata["tokenizer.ggml.merges"], split)


def _added_tokens(metadata: Mapping[str, Any], tokens: GgufTokens) -> list[AddedToken]:
    """What text never splits. Phi-3's take the spaces behind them, which llama.cpp knows by the model's name alone."""
    strips = any(name in str(metadata.get("general.name", "")).lower() for name in ("phi-3", "phi3"))
    added = []
    for text, kind in zip(tokens.texts, tokens.types, strict=True):
        if kind in ADDED_TYPES:
            rstrip = strips and text not in ("<unk>", "<s>", "<|endoftext|>")
            special = kind != TokenType.USER_DEFINED
            added.append(AddedToken(text, normalized=False, special=special, rstrip=rstrip))
    return added


def _add_bos_and_eos(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> None:
    special = {name: _special_token(metadata, name) for name in ("bos_token", "eos_token") if _adds(metadata, name)}
    for name, token in special.items():
        if token is None and f"tokenizer.ggml.add_{name}" in metadata:
            raise DamagedFile(f"tokenizer.ggml.add_{name} is true, but tokenizer.ggml.{name}_id is not there")
    found = {name: token for name, token in special.items() if token is not None}
    if found:
        around = [found[name][0] if name in found else "" for name in ("bos_token", "eos_token")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{around[0]} $A {around[1]}".strip(), special_tokens=list(found.values())
        )


def _adds(metadata: Mapping[str, Any], name: str) -> bool:
    """Whether a text is given `bos_token` or `eos_token`."""
    key, kind = f"tokenizer.ggml.add_{name}", metadata["tokenizer.ggml.model"]
    if kind == "gemma4" and name == "bos_token":
        return True  # whatever the file says
    if key in metadata:
        return bool(metadata[key])
    if kind == "gpt2":
        return name == "bos_token" and named_split(metadata.get("tokenizer.ggml.pre") or DEFAULT).adds_bos
    return name == {"llama": "bos_token", "t5": "eos_token"}.get(kind)


def _special_token(metadata: Mapping[str, Any], name: str) -> tuple[str, int] | None:
    """Text and id of `bos_token`, `eos_token` or another, None if the file has none."""
    tokens = metadata["tokenizer.ggml.tokens"]
    token_id = metadata.get(f"tokenizer.ggml.{name}_id")
    if token_id is None:
        token_id = _IDS.get(metadata.get("tokenizer.ggml.model", ""), {}).get(name, len(tokens))
        return (tokens[token_id], token_id) if token_id < len(tokens) else None
    if not 0 <= token_id < len(tokens):
        raise DamagedFile(f"tokenizer.ggml.{name}_id must be below the number of tokens, {len(tokens)}, got {token_id}")
    return tokens[token_id], token_id
