"""Byte-level BPE, from a vocabulary, merges as lines, and the way in which text is split before."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers

from optimizer.importers.errors import DamagedFile
from optimizer.importers.gguf_splits import Split


def byte_level_tokenizer(vocab: dict[str, int], merges: Iterable[str], split: Split) -> Tokenizer:
    """Of equal merges the first counts. DamagedFile if they are not pairs, or not in the vocabulary."""
    pairs = list(dict.fromkeys(_halves(merge) for merge in merges))
    try:
        model = models.BPE(vocab=vocab, merges=pairs, ignore_merges=split.ignores_merges)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise DamagedFile(f"the tokens and merges do not fit together: {error}") from None
    tokenizer = Tokenizer(model)
    if split.composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _halves(merge: str) -> tuple[str, str]:
    """The first space that has something before it separates them."""
    cut = merge.find(" ", 1)
    if cut < 0:
        raise DamagedFile(f"merges must be pairs with a space between, got {merge!r}")
    return merge[:cut], merge[cut + 1 :]
