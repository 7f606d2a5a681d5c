"""Which of several measured candidates wins, by a rule that a second tune repeats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
Constants = dict[str, int]

#: candidates this close to the fastest count as equally fast; above the noise of interleaved quartiles here
NEAR_TIE = 0.05


def winner(order: Sequence[T], ms: Iterable[float], tie: float = NEAR_TIE) -> T:
    """The first candidate, in the search space's own order, within `tie` of the fastest.

    Near-ties are decided by the order alone, so that noise between two tunes rarely changes the choice.
    """
    times = list(ms)
    limit = min(times) * (1 + tie)
    return next(candidate for candidate, time in zip(order, times, strict=True) if time <= limit)


@dataclass(frozen=True)
class Tuned:
    """What was measured for one op (or for the KV block size): candidates in order of preference, and the one chosen.

    `ms` is per output token of the workload, summed over the precision plans that were measured. `noise` is by what fraction
    the same candidate, measured against itself, differed; None where the target is modelled.
    """

    subject: str
    candidates: tuple[Constants, ...]
    ms: tuple[float, ...]
    chosen: Constants
    noise: float | None = None

    @property
    def margin(self) -> float:
        """How much slower the best of the others is, as a fraction; negative where a near-tie went to the plainer choice."""
        others = [ms for candidate, ms in zip(self.candidates, self.ms, strict=True) if candidate != self.chosen]
        own = self.ms[self.candidates.index(self.chosen)]
        return min(others) / own - 1 if others else 0.0
