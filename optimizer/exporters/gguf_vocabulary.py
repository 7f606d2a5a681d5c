"""A tokenizer.json as the metadata of a GGUF file: what optimizer/importers/gguf_tokenizer.py reads, written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gguf.constants import TokenType
from tokenizers import Tokenizer
from tokenizers.normalizers import NFC

from optimizer.exporters.errors import ExportError
from optimizer.importers.errors import SourceError
from optimizer.importers.gguf_splits import SPLITS, Split
from optimizer.importers.gguf_tokenizer import tokenizer_json
from runtime.generation_config import eos_token_ids

_KEY = "tokenizer.ggml"
#: Words, numbers, spaces and punctuation on which known ways to split text differ; and what a rebuilt tokenizer must agree on.
_PROBE = (
    "It's 12345'll   do,\tWE'VE  naïve 你好 😀!!\r\n\n for (x=3.14) {y}\n  Füße…'s 1 23  "
    "e\u0301t HelloWorld's `x` $a+b/\n\n\n \n <br/>かな漢字々 ' 한국\uff0c〈x〉 Ⅻ²³½ 1234567 x9-8\n\t\t.\r\n"
    "A1 B      C 'L d'sound   7 IMGIMGABZ"
)


def vocabulary_metadata(
    tokenizer_text: str,
    vocab_size: int,
    generation_config: Mapping[str, Any],
    chat_template: str | None,
    raw_text: str = "llama",
) -> dict[str, object]:
    """Metadata keys of the tokenizer, tokens padded to `vocab_size`, and of the chat template. BPE of raw text is written as
    kind `raw_text`.

    What is written is read back by the importer and compared on a probe. ExportError where the tokenizer is of a kind, or
    splits text in a way, that a GGUF file cannot say.
    """
    tokenizer = Tokenizer.from_str(tokenizer_text)
    model = json.loads(tokenizer_text)["model"]
    if model["type"] != "BPE":
        raise ExportError(f"a tokenizer must be BPE to be written as GGUF, got {model['type']}")
    tokens, types = _tokens(tokenizer, vocab_size, model)
    metadata: dict[str, object] = {f"{_KEY}.tokens": tokens, f"{_KEY}.token_type": types}
    special = _special(tokenizer, generation_config)
    if not model.get("byte_fallback"):
        metadata |= _byte_level(tokenizer, model)
    elif raw_text == "gemma4" and special[f"{_KEY}.add_bos_token"]:  # which its readers take for granted
        merges = [" ".join(pair) for pair in _pairs(model)]
        metadata |= {f"{_KEY}.model": raw_text, f"{_KEY}.merges": merges, f"{_KEY}.add_space_prefix": False}
    else:
        metadata |= _sentencepiece(tokenizer, model, tokens)
    metadata |= special
    if chat_template is not None:
        metadata["tokenizer.chat_template"] = chat_template
    _check(tokenizer, metadata)
    return metadata


def _tokens(tokenizer: Tokenizer, vocab_size: int, model: dict[str, Any]) -> tuple[list[str], list[int]]:
    by_id = {token_id: token for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items()}
    if by_id and max(by_id) >= vocab_size:
        raise ExportError(
            f"the tokenizer has a token {max(by_id)}, and the embedding {vocab_size} rows; GGUF wants a row for each"
        )
    tokens = [by_id.get(i, f"[PAD{i}]") for i in range(vocab_size)]
    types = [int(TokenType.NORMAL if i in by_id else TokenType.UNUSED) for i in range(vocab_size)]
    if model.get("byte_fallback"):
        for i, token in enumerate(tokens):
            if len(token) == 6 and token.startswith("<0x"):
                types[i] = int(TokenType.BYTE)
    for token_id, added in tokenizer.get_added_tokens_decoder().items():
        types[token_id] = int(TokenType.CONTROL if added.special else TokenType.USER_DEFINED)
    unknown = model.get("unk_token")
    if unknown is not None and model.get("byte_fallback"):
        types[tokens.index(unknown)] = int(TokenType.UNKNOWN)
    return tokens, types


def _pairs(model: dict[str, Any]) -> list[tuple[str, str]]:
    return [(m[0], m[1]) if isinstance(m, list) else tuple(m.split(" ", 1)) for m in model["merges"]]


def _byte_level(tokenizer: Tokenizer, model: dict[str, Any]) -> dict[str, object]:
    split = _split(tokenizer, model)
    if split is None:
        raise ExportError(
            f"the tokenizer splits text before merging in a way that is none of {', '.join(s.names[0] for s in SPLITS)}: "
            "GGUF names such a way and cannot describe another"
        )
    merges = [" ".join(pair) for pair in _pairs(model)]
    return {f"{_KEY}.model": "gpt2", f"{_KEY}.pre": split.names[0], f"{_KEY}.merges": merges}


def _split(tokenizer: Tokenizer, model: dict[str, Any]) -> Split | None:
    """The first that has the tokenizer's words of the probe and its use of merges, and normalizes as it does."""
    if tokenizer.pre_tokenizer is None:
        return None
    words = tokenizer.pre_tokenizer.pre_tokenize_str(_PROBE)
    alike = [split for split in SPLITS if split.pre_tokenizer().pre_tokenize_str(_PROBE) == words]
    uses = bool(model.get("ignore_merges")), isinstance(tokenizer.normalizer, NFC)
    return max(alike, key=lambda split: (split.ignores_merges == uses[0], split.composes == uses[1]), default=None)


def _sentencepiece(tokenizer: Tokenizer, model: dict[str, Any], tokens: list[str]) -> dict[str, object]:
    """A piece's score is minus the rank of the first merge that makes it; what no merge makes comes last."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(_pairs(model)):
        ranks.setdefault(left + right, rank)
    scores = [-float(ranks.get(token, len(ranks))) for token in tokens]
    prefix = tokenizer.encode("a", add_special_tokens=False).tokens[0].startswith("▁")
    return {f"{_KEY}.model": "llama", f"{_KEY}.pre": "default", f"{_KEY}.scores": scores, f"{_KEY}.add_space_prefix": prefix}


def _special(tokenizer: Tokenizer, generation_config: Mapping[str, Any]) -> dict[str, object]:
    ends = eos_token_ids(generation_config)
    special = _ends_of_turn(tokenizer, ends[1:])
    bos, eos = generation_config.get("bos_token_id"), ends[0] if ends else None
    added = tokenizer.encode("a").ids
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    for name, token_id, adds in (("bos", bos, added[:1] != bare[:1]), ("eos", eos, added[-1:] != bare[-1:])):
        # Said where there is none, too: readers have a default for some kinds.
        special[f"{_KEY}.add_{name}_token"] = adds and token_id is not None
        if token_id is not None:
            special[f"{_KEY}.{name}_token_id"] = token_id
    return special


def _ends_of_turn(tokenizer: Tokenizer, further: Sequence[int]) -> dict[str, object]:
    """Keys of two ends of sequence beside the first one; that of messages to tools has its own."""
    message = [token for token in further if tokenizer.id_to_token(token) == "<|eom_id|>"]
    turns = [token for token in further if token not in message]
    keyed = {"eot": turns[:1], "eom": message or turns[1:2]}
    return {f"{_KEY}.{key}_token_id": token for key, tokens in keyed.items() for token in tokens}


def unsaid_ends(metadata: Mapping[str, object], generation_config: Mapping[str, Any]) -> list[int]:
    """The ends of sequence for which `metadata` has no key left."""
    said = {metadata.get(f"{_KEY}.{key}_token_id") for key in ("eos", "eot", "eom")}
    return [token for token in eos_token_ids(generation_config) if token not in said]


def _check(tokenizer: Tokenizer, metadata: dict[str, object]) -> None:
    try:
        read = Tokenizer.from_str(tokenizer_json(metadata))
    except SourceError as error:
        raise ExportError(f"the tokenizer cannot be written as GGUF, whose readers would say: {error}") from None
    for text in (_PROBE, "a", " a", ""):
        expected, found = tokenizer.encode(text).ids, read.encode(text).ids
        if expected != found:
            raise ExportError(
                f"the tokenizer cannot be written as GGUF: {text[:20]!r} would become tokens {found[:8]} in place of "
                f"{expected[:8]}; llama.cpp has another notion of its normalizer or post-processor"
            )
