"""What an answer is held to, ready for use by any number of sequences."""

from __future__ import annotations

from typing import Protocol

from runtime.logits.processor import LogitsProcessor
from runtime.reasoning import Reasoning


class Constraint(Protocol):
    """A compiled grammar (`runtime.grammars`), or anything else that decides which tokens may come next.

    Once it allows nothing but the end, the answer ends: `ignore_eos` and `min_tokens` do not hold it up.
    """

    def processor(self, reasoning: Reasoning | None) -> LogitsProcessor:
        """A new one, for one sequence. With `reasoning` the constraint begins where the reasoning ends."""
        ...
