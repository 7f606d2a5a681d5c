"""Ends a hopeless candidate's evaluation item by item, by a test that may be looked at after every item."""

from __future__ import annotations

from collections.abc import Iterable

from optimizer.evaluation.betting import Wealth

ALPHA = 0.01
"""Probability at most with which a candidate that is within the margin is ended early."""


class Hopelessness:
    """Wealth against "within `margin` of the baseline", which is what the gate wants to show.

    Differences are candidate - baseline, each between -1 and 1; the bets are on their falling below -margin.
    """

    def __init__(self, margin: float) -> None:
        if not 0 <= margin < 1:
            raise ValueError(f"a margin must be at least 0 and below 1, got {margin}")
        self._margin = margin
        self._wealth = Wealth(largest_loss=1 + margin)

    def add(self, differences: Iterable[float]) -> None:
        for difference in differences:
            self._wealth.bet(-(difference + self._margin))

    @property
    def is_hopeless(self) -> bool:
        """Whether the hypothesis is rejected now. It may be looked at after every item and be true only for a while."""
        return self._wealth.rejects(ALPHA)
