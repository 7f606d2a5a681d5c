"""The seam between a model's logits and the draw of a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a sequence holds its processors
    from runtime.sequence import Sequence

Row = NDArray[np.float32]


class LogitsProcessor(Protocol):
    """Changes the logits of one sequence. It is made with the sequence and lives as long, also through preemptions.

    What it must know of the answer so far it reads from the sequence's tokens: they are kept when blocks are not. It is asked
    for one token after the other, and the tokens that were given are never taken back.
    """

    def applies(self, sequence: Sequence) -> bool:
        """Whether the next token's logits have to be seen. Cheap: it is asked at every step."""
        ...

    def prepare(self, sequence: Sequence) -> None:
        """Begin, on another thread if it takes long, what needs no logits: the step that computes them runs next.

        It raises nothing. What fails there is raised by the call.
        """
        ...

    def __call__(self, logits: Row, sequence: Sequence, end_token_ids: frozenset[int]) -> None:
        """Change `logits` [vocab_size] in place; -inf rules a token out. `end_token_ids` end a text of this model.

        What it raises ends this sequence, and no other.
        """
        ...


class Unprepared:
    """For processors that have nothing to do before they are called."""

    def prepare(self, sequence: Sequence) -> None:
        """Nothing."""
