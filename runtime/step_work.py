"""What a step computes, in counts from which its bytes and operations follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runtime.batch import Span


@dataclass(frozen=True)
class StepWork:
    """num_tokens    tokens computed
    num_context   tokens whose keys and values are read, those of each sequence once
    num_attended  pairs of a token and one that it attends to
    num_logits    rows of logits computed
    """

    num_tokens: int
    num_context: int
    num_attended: int
    num_logits: int

    @classmethod
    def of(cls, spans: Iterable[Span]) -> StepWork:
        """Of the spans of one step."""
        num_tokens = num_context = num_attended = num_logits = 0
        for span in spans:
            num_new, end = len(span.token_ids), span.start + len(span.token_ids)
            num_tokens += num_new
            num_context += end
            num_attended += num_new * span.start + num_new * (num_new + 1) // 2
            num_logits += span.num_logits
        return cls(num_tokens, num_context, num_attended, num_logits)
