"""Which of several measured candidates wins, by a rule that a second tune repeats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")

#: candidates this close to the fastest count as equally fast; above the noise of interleaved quartiles here
NEAR_TIE = 0.05


def winner(order: Sequence[T], ms: Iterable[float]) -> T:
    """The first candidate, in the search space's own order, within `NEAR_TIE` of the fastest.

    Near-ties are decided by the order alone, so that noise between two tunes rarely changes the choice.
    """
    times = list(ms)
    limit = min(times) * (1 + NEAR_TIE)
    return next(candidate for candidate, time in zip(order, times, strict=True) if time <= limit)
