"""min_tokens: no end before that many tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.logits.processor import Row, Unprepared

if TYPE_CHECKING:
    from runtime.sequence import Sequence


class MinTokens(Unprepared):
    """Rules out what ends the answer, unless nothing else is left: an answer whose grammar is complete has to end."""

    def applies(self, sequence: Sequence) -> bool:
        """Until there are enough tokens."""
        return sequence.num_generated_tokens < sequence.request.params.min_tokens

    def __call__(self, logits: Row, sequence: Sequence, end_token_ids: frozenset[int]) -> None:
        ends = list(end_token_ids | sequence.request.params.stop_token_ids)
        kept = logits[ends]
        logits[ends] = -np.inf
        if logits.max() == -np.inf:
            logits[ends] = kept
