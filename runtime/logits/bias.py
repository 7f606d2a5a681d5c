"""logit_bias: a number that is added to a token's logit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.logits.processor import Row, Unprepared

if TYPE_CHECKING:
    from runtime.sequence import Sequence


class LogitBias(Unprepared):
    """Adds the request's biases, as OpenAI's API defines them."""

    def applies(self, sequence: Sequence) -> bool:
        """Always."""
        return True

    def __call__(self, logits: Row, sequence: Sequence, end_token_ids: frozenset[int]) -> None:
        for token, bias in sequence.request.params.logit_bias.items():
            logits[token] += bias
