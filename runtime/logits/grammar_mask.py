"""A grammar, token by token: what cannot go on to a complete text is ruled out."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from runtime.logits.processor import Row
from runtime.reasoning import Reasoning, ReasoningProgress
from runtime.request import RequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from runtime.sequence import Sequence

_NUM_THREADS = 2


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_NUM_THREADS, "masks")


class GrammarFailure(RequestError):
    """A grammar needs more work or memory for a token than it may."""


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
        self._coming: Future[NDArray[np.bool_]] | None = None

    def applies(self, sequence: Sequence) -> bool:
        """Always."""
        return True

    def prepare(self, sequence: Sequence) -> None:
        """Begin the mask of the next token."""
        if self._coming is None and self._phase(sequence) != "reasoning":
            self._coming = _threads().submit(self._forbidden, self._new_tokens(sequence))

    def __call__(self, logits: Row, sequence: Sequence, end_token_ids: frozenset[int]) -> None:
        self.prepare(sequence)
        if self._coming is None:
            logits[list(end_token_ids)] = -np.inf
            return
        coming, self._coming = self._coming, None
        forbidden = coming.result()
        begin = self._progress.begin_token() if self._progress is not None else None
        if begin is not None:
            assert self._progress is not None
            forbidden[begin] = False
            if self._progress.num_seen:  # in the middle of the first mark: the grammar has not begun
                forbidden[:] = True
                forbidden[begin] = False
        np.putmask(logits, forbidden, -np.inf)

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

    def _forbidden(self, new_tokens: list[int]) -> NDArray[np.bool_]:
        """bool [vocab_size]: the tokens that are ruled out after these."""
        matcher = self._matcher
        matcher.consume_tokens(new_tokens)
        if not matcher.is_error():
            matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if matcher.is_error():
            reason = matcher.get_error().splitlines()[0][:200]
            raise GrammarFailure(f"the answer cannot be held to its grammar any further: {reason}; make it simpler")
        allowed = np.unpackbits(self._bits.view(np.uint8), count=self._vocab_size, bitorder="little")
        return np.equal(allowed, 0)
