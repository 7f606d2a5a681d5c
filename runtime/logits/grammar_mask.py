"""A grammar, token by token: what cannot go on to a complete text is ruled out."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.cores import available_cores
from runtime.logits.processor import Row
from runtime.reasoning import Reasoning, ReasoningProgress
from runtime.request import RequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from runtime.sequence import Sequence

#: one thread makes the masks of a hundred streams in the time of a GPU's step; on a CPU the step needs the cores itself
_CORES_PER_THREAD, _MAX_NUM_THREADS = 4, 8


@cache
def _threads() -> ThreadPoolExecutor:
    num_threads = min(_MAX_NUM_THREADS, max(1, available_cores() // _CORES_PER_THREAD))
    return ThreadPoolExecutor(num_threads, "masks")


class GrammarFailure(RequestError):
    """A grammar needs more work or memory for a token than it may."""


@dataclass(frozen=True)
class _Mask:
    """The tokens that alone are allowed, or those that are not: whichever are fewer, since between two steps the weights have
    swept the caches, and every pass over the vocabulary is paid at memory speed."""

    are_allowed: bool
    token_ids: NDArray[np.intp]

    @classmethod
    def of(cls, bits: NDArray[np.int32], vocab_size: int) -> _Mask:
        """Of the allowed tokens' bits, the first token's in the lowest."""
        allowed = np.unpackbits(bits.view(np.uint8), count=vocab_size, bitorder="little").view(np.bool_)
        are_few = bool(2 * np.count_nonzero(allowed) <= vocab_size)
        return cls(are_few, np.flatnonzero(allowed if are_few else ~allowed))

    def apply(self, logits: Row) -> None:
        """Rule out in place what is not allowed."""
        if not self.are_allowed:
            logits[self.token_ids] = -np.inf
            return
        kept = logits[self.token_ids]
        logits.fill(-np.inf)
        logits[self.token_ids] = kept


class GrammarMask:
    """Allows the tokens with which `matcher`'s grammar can go on, and a model's end tokens where it is complete.

    The mask is made on a thread of its own while the step runs; the matcher releases Python's lock. With `reasoning` the
    grammar begins behind it, and the reasoning cannot end the answer.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int, reasoning: Reasoning | None) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._bits = np.zeros(-(-vocab_size // 32), np.int32)
        self._progress = None if reasoning is None else ReasoningProgress(reasoning)
        self._num_consumed: int | None = None  # of the sequence's tokens, once the grammar has begun
        self._coming: Future[_Mask] | None = None

    def applies(self, sequence: Sequence) -> bool:
        """Always."""
        return True

    def prepare(self, sequence: Sequence) -> None:
        """Begin the mask of the next token."""
        if self._coming is None and self._phase(sequence) != "reasoning":
            self._coming = _threads().submit(self._mask_after, self._new_tokens(sequence))

    def __call__(self, logits: Row, sequence: Sequence, end_token_ids: frozenset[int]) -> None:
        self.prepare(sequence)
        if self._coming is None:
            logits[list(end_token_ids)] = -np.inf
            return
        coming, self._coming = self._coming, None
        mask = coming.result()
        begin = self._progress.begin_token() if self._progress is not None else None
        if begin is not None and self._progress is not None and self._progress.num_seen:
            mask = _Mask(True, np.array([begin]))  # in the middle of the first mark: the grammar has not begun
        kept = None if begin is None else logits[begin]
        mask.apply(logits)
        if begin is not None:
            logits[begin] = kept

    def _phase(self, sequence: Sequence) -> str:
        """Where the answer stands; fixes where the grammar begins."""
        progress = self._progress
        if progress is None:
            phase = "answer"
        else:
            progress.follow(sequence.token_ids, sequence.num_prompt_tokens)
            phase = progress.phase
        if phase == "answer" and self._num_consumed is None:
            skipped = 0 if progress is None else progress.num_before_answer
            self._num_consumed = sequence.num_prompt_tokens + skipped
        return phase

    def _new_tokens(self, sequence: Sequence) -> list[int]:
        if self._num_consumed is None:
            return []
        new = sequence.token_ids[self._num_consumed :]
        self._num_consumed = sequence.num_tokens
        return new

    def _mask_after(self, new_tokens: list[int]) -> _Mask:
        matcher = self._matcher
        matcher.consume_tokens(new_tokens)
        if not matcher.is_error():
            matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if matcher.is_error():
            reason = matcher.get_error().splitlines()[0][:200]
            raise GrammarFailure(f"the answer cannot be held to its grammar any further: {reason}; make it simpler")
        return _Mask.of(self._bits, self._vocab_size)
