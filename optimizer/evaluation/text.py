"""Text to sequences of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path


def text_sequences(
    paths: Sequence[Path],
    encode: Callable[[str], Sequence[int]],
    *,
    num_tokens: int,
    max_sequences: int,
    prefix: Sequence[int] = (),
) -> list[list[int]]:
    """Non-overlapping sequences of exactly `num_tokens` tokens from UTF-8 text files, always the same ones.

    `encode` must add no special tokens; `prefix` (a BOS token, where the model has one) begins every sequence and
    counts into its length. The end of a file that fills no sequence is left out. When the files give more than
    `max_sequences`, evenly spaced ones are taken, so that all parts of the text are heard.

    Raises ValueError where a file cannot be read as text or all together are too short for one sequence.
    """
    num_new = num_tokens - len(prefix)
    if num_new < 2:
        raise ValueError(f"num_tokens must be at least {len(prefix) + 2}, got {num_tokens}")
    sequences: list[list[int]] = []
    for path in paths:
        ids = encode(_read(path))
        starts = range(0, len(ids) - num_new + 1, num_new)
        sequences += [[*prefix, *ids[start : start + num_new]] for start in starts]
    if not sequences:
        names = ", ".join(map(str, paths))
        raise ValueError(f"evaluation text must fill one sequence of {num_tokens} tokens; {names} is too short")
    num_kept = min(max_sequences, len(sequences))
    return [sequences[i * len(sequences) // num_kept] for i in range(num_kept)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"evaluation text must be a readable UTF-8 file; {path}: {error}") from error
