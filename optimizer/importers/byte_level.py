"""BPE of bytes, or of raw text, from a vocabulary, merges as lines, and the way in which text is split before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers

from optimizer.importers.errors import DamagedFile
from optimizer.importers.gguf_splits import Split


def byte_level_tokenizer(vocab: dict[str, int], merges: Iterable[str], split: Split) -> Tokenizer:
    """Of equal merges the first counts. DamagedFile if they are not pairs, or not in the vocabulary."""
    pairs = list(dict.fromkeys(_halves(merge) for merge in merges))
    tokenizer = Tokenizer(_bpe(vocab=vocab, merges=pairs, ignore_merges=split.ignores_merges))
    if split.composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_fallback_merges(vocab: dict[str, int], merges: Iterable[str], unknown: str | None) -> models.BPE:
    """The same of raw text, where bytes stand for what is no token."""
    pairs = list(dict.fromkeys(_halves(merge) for merge in merges))
    return _bpe(vocab=vocab, merges=pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True)


def _bpe(**options: Any) -> models.BPE:
    try:
        return models.BPE(**options)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise DamagedFile(f"the tokens and merges do not fit together: {error}") from None


def _halves(merge: str) -> tuple[str, str]:
    """The first space that has something before it separates them."""
    cut = merge.find(" ", 1)
    if cut < 0:
        raise DamagedFile(f"merges must be pairs with a space between, got {merge!r}")
    return merge[:cut], merge[cut + 1 :]
