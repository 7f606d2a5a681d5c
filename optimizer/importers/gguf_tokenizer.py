"""The tokenizer that a GGUF file describes, rebuilt as a tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from optimizer.importers.errors import DamagedFile, MissingTokenizer, UnsupportedTokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4


def tokenizer_json(metadata: Mapping[str, Any]) -> str:
    """tokenizer.json for `metadata` of kind `gpt2` (byte-level BPE) or `llama` (sentencepiece BPE with byte fallback).

    Control tokens become special tokens and user-defined ones added tokens, so that text never splits them. BOS and EOS
    are added to an encoded text if the file says so; where it is silent llama.cpp's default for the tokenizer decides.
    Raises MissingTokenizer, UnsupportedTokenizer and DamagedFile.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind is None or "tokenizer.ggml.tokens" not in metadata:
        raise MissingTokenizer("the GGUF file holds no tokenizer (tokenizer.ggml.model, tokenizer.ggml.tokens)")
    build = {"gpt2": _byte_level_bpe, "llama": _sentencepiece_bpe}.get(kind)
    if build is None:
        raise UnsupportedTokenizer(f"tokenizer.ggml.model must be gpt2 or llama, got {kind!r}")
    tokens = metadata["tokenizer.ggml.tokens"]
    for name in ("tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
        if len(metadata.get(name, tokens)) != len(tokens):
            raise DamagedFile(f"{name} must have an entry per token, {len(tokens)}, got {len(metadata[name])}")
    try:
        tokenizer = build(metadata)
    except KeyError as error:
        raise MissingTokenizer(f"the GGUF file's tokenizer lacks {error}") from None
    for token, token_type in zip(tokens, metadata.get("tokenizer.ggml.token_type", ()), strict=False):
        if token_type in (_UNKNOWN, _CONTROL):
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif token_type == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=False)])
    _add_bos_and_eos(tokenizer, metadata)
    return tokenizer.to_str()


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


def _split_pattern(digits: str) -> pre_tokenizers.PreTokenizer:
    """GPT-4's word split, which Llama 3 and Qwen took over with their own rule for digits; then bytes."""
    pattern = (
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


_GPT2_SPLIT = pre_tokenizers.ByteLevel(add_prefix_space=False)
_LLAMA_BPE = "llama-bpe"
#: tokenizer.ggml.pre -> how text is split before merging
PRE_TOKENIZERS = {
    "gpt-2": _GPT2_SPLIT,
    "default": _GPT2_SPLIT,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _GPT2_SPLIT]),
    _LLAMA_BPE: _split_pattern(r"\p{N}{1,3}"),
    "qwen2": _split_pattern(r"\p{N}"),
}


def _byte_level_bpe(metadata: Mapping[str, Any]) -> Tokenizer:
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in PRE_TOKENIZERS:
        raise UnsupportedTokenizer(f"tokenizer.ggml.pre must be one of {', '.join(PRE_TOKENIZERS)}, got {pre!r}")
    vocab = {token: token_id for token_id, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    # Llama 3 takes a word that is in the vocabulary as it is, whatever its merges would give.
    tokenizer = Tokenizer(_bpe(vocab, merges, ignore_merges=pre == _LLAMA_BPE))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece_bpe(metadata: Mapping[str, Any]) -> Tokenizer:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    types = metadata["tokenizer.ggml.token_type"]
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)
    merges = _merges_of_scores(vocab, metadata["tokenizer.ggml.scores"], types)
    tokenizer = Tokenizer(_bpe(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    undo: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend("▁"))
        undo.append(decoders.Strip(" ", left=1))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(undo)
    return tokenizer


def _merges_of_scores(vocab: Mapping[str, int], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """Sentencepiece joins any two neighbours that form a piece, best score first: every such pair, in that order."""
    ranked = []
    for piece, token_id in vocab.items():
        if types[token_id] == _NORMAL:
            for cut in range(1, len(piece)):
                left, right = piece[:cut], piece[cut:]
                if left in vocab and right in vocab:
                    ranked.append((-scores[token_id], -cut, left, right))
    return [(left, right) for _, _, left, right in sorted(ranked)]


def _bpe(vocab: dict[str, int], merges: list[Any], **options: Any) -> models.BPE:
    try:
        return models.BPE(vocab=vocab, merges=merges, **options)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise DamagedFile(f"the GGUF file's tokens and merges do not fit together: {error}") from None


def _add_bos_and_eos(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> None:
    adds_bos = metadata["tokenizer.ggml.model"] == "llama" or metadata.get("tokenizer.ggml.pre") == _LLAMA_BPE
    wanted = {
        "bos_token": metadata.get("tokenizer.ggml.add_bos_token", adds_bos),
        "eos_token": metadata.get("tokenizer.ggml.add_eos_token", False),
    }
    special = {name: _special_token(metadata, name) for name, add in wanted.items() if add}
    found = {name: token for name, token in special.items() if token is not None}
    if found:
        around = [found[name][0] if name in found else "" for name in wanted]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{around[0]} $A {around[1]}".strip(), special_tokens=list(found.values())
        )


def _special_token(metadata: Mapping[str, Any], name: str) -> tuple[str, int] | None:
    """Text and id of `bos_token`, `eos_token` or another, None if the file has none."""
    token_id, tokens = metadata.get(f"tokenizer.ggml.{name}_id"), metadata["tokenizer.ggml.tokens"]
    if token_id is None:
        return None
    if not 0 <= token_id < len(tokens):
        raise DamagedFile(f"tokenizer.ggml.{name}_id must be below the number of tokens, {len(tokens)}, got {token_id}")
    return tokens[token_id], token_id
