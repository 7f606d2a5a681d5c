"""Parts of a text for benchmarks: what one part calibrates is scored on another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from optimizer.evaluation import text_sequences

Tokens = list[int]


def whole_text(path: Path, tokenizer_json: str, num_tokens: int) -> list[Tokens]:
    """The text cut into sequences of `num_tokens` tokens, in order."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    return text_sequences(
        [path],
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        num_tokens=num_tokens,
        max_sequences=1 << 30,
    )


def spaced(sequences: Sequence[Tokens], num: int) -> list[Tokens]:
    """At most `num` of them, evenly spaced."""
    num = min(num, len(sequences))
    return [list(sequences[i * len(sequences) // num]) for i in range(num)]
