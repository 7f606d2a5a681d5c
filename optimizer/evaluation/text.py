"""Text to sequences of tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from artifacts.errors import UserError
from artifacts.text_file import read_text


def text_sequences(
    paths: Sequence[Path],
    encode: Callable[[str], Sequence[int]],
    *,
    num_tokens: int,
    max_sequences: int = sys.maxsize,
    prefix: Sequence[int] = (),
) -> list[list[int]]:
    """Non-overlapping sequences of exactly `num_tokens` tokens from UTF-8 text files, always the same ones.

    `encode` must add no special tokens; `prefix` (a BOS token, where the model has one) begins every sequence and
    counts into its length. The end of a file that fills no sequence is left out. When the files give more than
    `max_sequences`, evenly spaced ones are taken, so that all parts of the text are heard.

    Raises UserError where a file cannot be read as text or all together are too short for one sequence.
    """
    num_new = num_tokens - len(prefix)
    if num_new < 2:
        raise UserError(f"num_tokens must be at least {len(prefix) + 2}, got {num_tokens}")
    sequences: list[list[int]] = []
    for path in paths:
        ids = encode(read_text(path, "evaluation text"))
        starts = range(0, len(ids) - num_new + 1, num_new)
        sequences += [[*prefix, *ids[start : start + num_new]] for start in starts]
    if not sequences:
        names = ", ".join(map(str, paths))
        raise UserError(f"evaluation text must fill one sequence of {num_tokens} tokens; {names} is too short")
    return [sequences[i] for i in evenly_spaced(len(sequences), max_sequences)]


def evenly_spaced(num: int, most: int) -> list[int]:
    """At most so many of the numbers below `num`."""
    num_kept = min(most, num)
    return [i * num // num_kept for i in range(num_kept)]


def spread(num: int) -> list[int]:
    """The numbers below `num`, every first part of them spread over all (van der Corput)."""
    num_bits = max(num - 1, 0).bit_length()
    return [i for i in sorted(range(1 << num_bits), key=lambda i: f"{i:0{num_bits}b}"[::-1]) if i < num]
