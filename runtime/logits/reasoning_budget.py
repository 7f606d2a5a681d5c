"""thinking_token_budget: so many tokens of reasoning, and then its end is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.logits.processor import Row, Unprepared
from runtime.reasoning import Reasoning, ReasoningProgress

if TYPE_CHECKING:
    from runtime.sequence import Sequence


class ReasoningBudget(Unprepared):
    """After `num_tokens` tokens of reasoning only those that write its end are left, one after the other."""

    def __init__(self, num_tokens: int, reasoning: Reasoning) -> None:
        self._num_tokens = num_tokens
        self._progress = ReasoningProgress(reasoning)

    def applies(self, sequence: Sequence) -> bool:
        """While the budget is used up and the reasoning goes on."""
        progress = self._progress
        progress.follow(sequence.token_ids, sequence.num_prompt_tokens)
        return progress.phase == "reasoning" and progress.num_tokens >= self._num_tokens

    def __call__(self, logits: Row, sequence: Sequence, end_token_ids: frozenset[int]) -> None:
        written = self._progress.num_tokens - self._num_tokens
        token = self._progress.reasoning.end_token_ids[written]
        logits[:] = -np.inf
        logits[token] = 0.0
