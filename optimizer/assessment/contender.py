"""What can be assessed: a model that answers questions, and finds texts likely or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from optimizer.evaluation import ItemSet
from optimizer.evaluation.sets import Marked
from runtime.prompts import Prompts


@dataclass(frozen=True)
class Likelihood:
    """Of a text, given its beginning of sequence if the model has one: the natural log, over so many tokens."""

    log_probability: float
    num_tokens: int


class Contender(Protocol):
    """A bundle or an endpoint."""

    @property
    def label(self) -> str:
        """What the user calls it."""
        ...

    @property
    def prompts(self) -> Prompts:
        """How questions to it are written."""
        ...

    @property
    def can_score(self) -> bool:
        """Whether it says how likely a given text is."""
        ...

    def results(self, item_set: ItemSet, items: Sequence[Mapping[str, Any]]) -> list[Marked]:
        """One result for each item. UserError where it cannot be asked."""
        ...

    def likelihood(self, text: str) -> Likelihood:
        """UserError where it cannot score."""
        ...
