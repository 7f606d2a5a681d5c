"""The baseline's logits: on disk, so that a candidate is compared without running it again, or computed as they are needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np

from artifacts.errors import UserError
from optimizer.evaluation.metrics import Logits


class BaselineLogits(Protocol):
    """What a candidate is compared with."""

    def logits(self, sequence: int) -> Logits:
        """fp32 [at least n - 1, vocab] of a sequence of n tokens; row i predicts token i + 1. Valid until the next is asked."""
        ...


class FreshLogits:
    """Of sequences that few candidates are heard on: to compute them again takes less than to keep them.

    `open_score` makes what scores, once, when the first is asked for.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], open_score: Callable[[], Callable[[list[int]], Logits]]) -> None:
        self._sequences = sequences
        self._open_score = open_score

    @cached_property
    def _score(self) -> Callable[[list[int]], Logits]:
        return self._open_score()

    def logits(self, sequence: int) -> Logits:
        return self._score(list(self._sequences[sequence]))


class BaselineStore:
    """Logits of every sequence but its last row, mapped from one .npy file fp32 [num predicted tokens, vocab].

    fp32 logits as they were computed, not log-probabilities nor fp16: there is no rounding to account for. fp16 would
    halve the file and add about 5e-6 nats of KL (measured on logits of -3 to 25), which is ten times the KL of a candidate
    whose logits differ by 1e-3. A token takes 4 bytes x vocabulary: 2,000 tokens of a 150,000-token vocabulary are 1.2 GB
    of disk, of which one sequence is in memory at a time.
    """

    def __init__(self, path: Path, sequences: Sequence[Sequence[int]]) -> None:
        """Map the file at `path`; UserError where it has another number of tokens than `sequences`."""
        self._rows = list(accumulate((len(ids) - 1 for ids in sequences), initial=0))
        self._logits = np.load(path, mmap_mode="r")
        if len(self._logits) != self._rows[-1]:
            raise UserError(
                f"{path} must hold {self._rows[-1]} rows of logits, got {len(self._logits)}; delete it to score again"
            )

    @classmethod
    def load_or_score(
        cls, folder: Path, model: str, sequences: Sequence[Sequence[int]], score: Callable[[list[int]], Logits]
    ) -> BaselineStore:
        """The store of these sequences in `folder`, made with `score` where it is not there yet.

        `model` is whatever identifies the baseline (its files' hash); with the token ids it names the file. The file
        appears whole or not at all.
        """
        path = folder / f"baseline-{_digest(model, sequences)}.npy"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.partial")
            try:
                _write(partial, sequences, score)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        return cls(path, sequences)

    def logits(self, sequence: int) -> Logits:
        """fp32 [n - 1, vocab] of a sequence of n tokens, read-only; row i predicts token i + 1."""
        logits: Logits = self._logits[self._rows[sequence] : self._rows[sequence + 1]]
        return logits


def _write(path: Path, sequences: Sequence[Sequence[int]], score: Callable[[list[int]], Logits]) -> None:
    num_rows, row, file = sum(len(ids) - 1 for ids in sequences), 0, None
    for ids in sequences:
        logits = score(list(ids))[: len(ids) - 1]
        if file is None:
            file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(num_rows, logits.shape[1]))
        file[row : row + len(logits)] = logits
        row += len(logits)
    if file is None:
        raise ValueError("a baseline needs at least one sequence, got none")
    file.flush()


def _digest(model: str, sequences: Sequence[Sequence[int]]) -> str:
    digest = hashlib.sha256(model.encode())
    for ids in sequences:
        digest.update(np.asarray([len(ids), *ids], np.int64).tobytes())
    return digest.hexdigest()[:16]
