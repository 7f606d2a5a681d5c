"""Sentencepiece's BPE with byte fallback, and its unigram model, from the pieces and scores of a GGUF file; Gemma 4's BPE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf.constants import TokenType
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from optimizer.importers.byte_level import byte_fallback_merges
from optimizer.importers.errors import UnsupportedTokenizer
from optimizer.importers.gguf_tokens import ADDED_TYPES, GgufTokens


def byte_fallback_bpe(metadata: Mapping[str, Any], tokens: GgufTokens) -> Tokenizer:
    """Raises KeyError without scores, and UnsupportedTokenizer where merges of a fixed order cannot say what scores do."""
    vocab = {text: token_id for token_id, text in enumerate(tokens.texts)}
    kinds = dict(zip(tokens.texts, tokens.types, strict=True))
    unknown = next((text for text, kind in kinds.items() if kind == TokenType.UNKNOWN), None)
    joined = [text for text, kind in kinds.items() if "▁" in text or kind not in ADDED_TYPES]
    merges = _merges_of_scores(joined, vocab, metadata["tokenizer.ggml.scores"])
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    undo: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend("▁"))
        undo.append(decoders.Strip(" ", left=1))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(undo)
    return tokenizer


def raw_text_bpe(metadata: Mapping[str, Any], tokens: GgufTokens) -> Tokenizer:
    """Gemma 4's kind: merges of raw text with its spaces replaced, line breaks apart from the rest, bytes for what is no token.

    llama.cpp takes a run of line breaks that is a token whole. Raises KeyError without merges, DamagedFile for merges of what
    is no token, and UnsupportedTokenizer where such a run is not what merges make of it.
    """
    vocab = {text: token_id for token_id, text in enumerate(tokens.texts)}
    kinds = dict(zip(tokens.texts, tokens.types, strict=True))
    unknown = next((text for text, kind in kinds.items() if kind == TokenType.UNKNOWN), None)
    tokenizer = Tokenizer(byte_fallback_merges(vocab, metadata["tokenizer.ggml.merges"], unknown))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\n]+|\n+"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    for run in (text for text, kind in kinds.items() if not text.strip("\n") and kind not in ADDED_TYPES):
        if (found := tokenizer.encode(run, add_special_tokens=False).tokens) != [run]:
            raise UnsupportedTokenizer(
                f"tokenizer.ggml.merges must make one token of {len(run)} line breaks, as there is one, but they make "
                f"{len(found)}; convert the model again from its tokenizer.json"
            )
    return tokenizer


def _merges_of_scores(pieces: list[str], vocab: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Any two neighbours that form one of `pieces` are joined, best score first: every such pair, in that order.

    Tokens that are taken out of a text as it was written, before, are none. Of equal scores the leftmost counts, and a
    character need not be a token to be joined: neither can be said by merges.
    """
    ranked = []
    makes: dict[float, str] = {}
    for piece in pieces:
        score = scores[vocab[piece]]
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                ranked.append((-score, -cut, left, right))
                if makes.setdefault(score, piece) != piece:
                    raise UnsupportedTokenizer(
                        f"tokenizer.ggml.scores must say which of two tokens is made first, but {makes[score]!r} and {piece!r} "
                        f"both have {score}; convert the model again from its tokenizer.model or tokenizer.json"
                    )
            elif all(half in vocab or len(half) == 1 for half in (left, right)):
                missing = left if left not in vocab else right
                raise UnsupportedTokenizer(
                    f"tokenizer.ggml.tokens must have every character that its tokens are made of, but {piece!r} is there and "
                    f"{missing!r} is not; convert the model again"
                )
    return [(left, right) for _, _, left, right in sorted(ranked)]


def unigram(metadata: Mapping[str, Any], tokens: GgufTokens) -> Tokenizer:
    """T5's kind: the pieces of the best sum of scores. Raises KeyError without scores, UnsupportedTokenizer for byte tokens."""
    if TokenType.BYTE in tokens.types:
        raise UnsupportedTokenizer("a tokenizer of kind t5 must have no tokens of type BYTE: llama.cpp never uses them")
    scored = [
        (text, 0.0 if kind in ADDED_TYPES else score)
        for text, kind, score in zip(tokens.texts, tokens.types, metadata["tokenizer.ggml.scores"], strict=True)
    ]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=metadata.get("tokenizer.ggml.unknown_token_id", 2)))
    merges_spaces = metadata.get("tokenizer.ggml.remove_extra_whitespaces", False)
    steps: list[normalizers.Normalizer] = []
    if charsmap := metadata.get("tokenizer.ggml.precompiled_charsmap"):
        steps.append(normalizers.Precompiled(bytes(byte & 255 for byte in charsmap)))
    if merges_spaces:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" +"), " ")]
    steps.append(normalizers.Replace(" ", "▁"))
    undo: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.Fuse()]
    if merges_spaces or metadata.get("tokenizer.ggml.add_space_prefix", False):
        steps.append(normalizers.Prepend("▁"))
        undo.append(decoders.Strip(" ", left=1))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(undo)
    return tokenizer
