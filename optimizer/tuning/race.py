"""Candidates race: after each pass over all of them clear losers leave, and the race ends as soon as its winner is certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

from optimizer.tuning.winner import NEAR_TIE, winner

MOST_PASSES = 3
#: what a single comparison of a candidate with itself may show less of than there is
_LEAST_NOISE = 0.01
#: so much slower than a near-tie a candidate must be to leave after one pass: a disturbed sample is not rare
_CLEAR = 0.25


@dataclass(frozen=True)
class Standings:
    """After a pass: milliseconds of each candidate, in order of preference (what it had when it left, if it did), and by what
    fraction the same candidate differed from itself in each pass so far."""

    ms: Sequence[float]
    self_differences: Sequence[float]

    @property
    def noise(self) -> float:
        """Of the mean of all passes."""
        passes = len(self.self_differences)
        return max(_LEAST_NOISE, sum(self.self_differences) / passes / sqrt(passes))

    def remaining(self, running: Sequence[int]) -> list[int]:
        """Those of `running` that are within the near-tie of the fastest, or could be without the noise."""
        slack = self.noise if self._is_repeated else max(self.noise, _CLEAR)
        limit = min(self.ms) * (1 + NEAR_TIE) * (1 + slack)
        return [candidate for candidate in running if self.ms[candidate] <= limit]

    def is_decided(self, running: Sequence[int]) -> bool:
        """Whether the first that remains is the winner, even if noise has favoured it; one pass can only confirm the order's
        first, or leave no other."""
        first = running[0]
        is_tied = self.ms[first] * (1 + self.noise) <= min(self.ms) * (1 + NEAR_TIE)
        return len(running) == 1 or (is_tied and (first == 0 or self._is_repeated))

    @property
    def _is_repeated(self) -> bool:
        return len(self.self_differences) > 1


@dataclass(frozen=True)
class Finish:
    """The winner's index, and what was measured."""

    winner: int
    ms: tuple[float, ...]
    noise: float


def race(num_candidates: int, measure: Callable[[Sequence[int]], Standings]) -> Finish:
    """The winner among candidates in order of preference; `measure` adds a pass over those that are named.

    It is the first one within NEAR_TIE of the fastest, or within the noise where that is more: a difference that a candidate
    has from itself decides nothing, the order does.
    """
    running = list(range(num_candidates))
    for _ in range(MOST_PASSES):
        standings = measure(running)
        running = standings.remaining(running)
        if standings.is_decided(running):
            break
    ms = [standings.ms[candidate] for candidate in running]
    return Finish(winner(running, ms, max(NEAR_TIE, standings.noise)), tuple(standings.ms), standings.noise)
