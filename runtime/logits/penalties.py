"""repetition_penalty, presence_penalty and frequency_penalty: what was said becomes less likely."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.logits.processor import Row, Unprepared

if TYPE_CHECKING:
    from runtime.sequence import Sequence


class Penalties(Unprepared):
    """The repetition penalty counts the prompt (Keskar et al. 2019), the two of OpenAI's API only what was generated."""

    def applies(self, sequence: Sequence) -> bool:
        """Always."""
        return True

    def __call__(self, logits: Row, sequence: Sequence, end_token_ids: frozenset[int]) -> None:
        params = sequence.request.params
        seen = np.unique(np.asarray(sequence.token_ids))
        above = logits[seen] > 0
        logits[seen] = np.where(above, logits[seen] / params.repetition_penalty, logits[seen] * params.repetition_penalty)
        generated, counts = np.unique(np.asarray(sequence.token_ids[sequence.num_prompt_tokens :], int), return_counts=True)
        logits[generated] -= params.frequency_penalty * counts + params.presence_penalty
