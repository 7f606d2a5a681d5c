"""How many threads run a step: a choice for good, so that one moment does not make it.

What the cores do for others changes in seconds, and slows many threads more than few. So the candidates meet in several moments
that are apart from each other, and a number that is not the first in the space's order must win in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from optimizer.tuning.winner import NEAR_TIE

#: if a thread of ours waited for others for more than this part of its time, the moment does not count
MOST_DISTURBED = 0.1
#: undisturbed moments without which the first candidate stands
LEAST_MOMENTS = 3


@dataclass(frozen=True)
class Moment:
    """Milliseconds of each candidate, in order of preference, when they took turns; `again` of the first one once more.

    `disturbed` is how much of its time a thread of ours waited for others.
    """

    ms: tuple[float, ...]
    again: float
    disturbed: float = 0.0

    @property
    def noise(self) -> float:
        """By what fraction the first candidate differed from itself."""
        return abs(self.again / self.ms[0] - 1)

    @property
    def is_valid(self) -> bool:
        return self.disturbed <= MOST_DISTURBED


@dataclass(frozen=True)
class Decision:
    """The index of the candidate that was chosen, its time and the others' in the median moment, noise, and in words why."""

    chosen: int
    ms: tuple[float, ...]
    noise: float
    reason: str


def decide(moments: Sequence[Moment]) -> Decision:
    """The first candidate, unless another one beats it in every undisturbed moment, of which there are enough, by more than
    NEAR_TIE and more than the first differs from itself; of several such the one that is fastest in the median moment."""
    valid = [moment for moment in moments if moment.is_valid]
    shown = valid or moments
    ms = tuple(median(times) for times in zip(*(moment.ms for moment in shown), strict=True))
    noise = max(moment.noise for moment in shown)
    told = f"{len(valid)} of {len(moments)} moments undisturbed, the first differs from itself by {noise:.1%}"
    if len(valid) < LEAST_MOMENTS:
        return Decision(0, ms, noise, f"{told}: too few to change it")

    def wins(candidate: int) -> bool:
        margin = 1 + max(NEAR_TIE, noise)
        return all(moment.ms[candidate] * margin < min(moment.ms[0], moment.again) for moment in valid)

    winners = [candidate for candidate in range(1, len(ms)) if wins(candidate)]
    chosen = min(winners, key=lambda candidate: ms[candidate], default=0)
    return Decision(chosen, ms, noise, f"{told}: {'faster in each' if chosen else 'nothing is faster in each'}")
