"""Ends a hopeless candidate's evaluation item by item, by a test that may be looked at after every item.

The hypothesis is the one that the gate wants to show: the candidate scores at most `margin` below its baseline, on average.
If it is true, the wealth of a gambler who bets on each item's difference falling below -margin can only shrink on average,
whatever the order and however often it is looked at, and ever reaches 1 / alpha with probability alpha at most (Ville's
inequality; the bets are those of Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, 2023).
The wealth here is the mean over several fixed stakes, so that nothing need be known of how bad the candidate is.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

ALPHA = 0.01
"""Probability at most with which a candidate that is within the margin is ended early."""
_NUM_STAKES = 16


class Hopelessness:
    """Wealth against "within `margin` of the baseline"; differences are candidate - baseline, each between -1 and 1."""

    def __init__(self, margin: float) -> None:
        if not 0 <= margin < 1:
            raise ValueError(f"a margin must be at least 0 and below 1, got {margin}")
        self._margin = margin
        # A stake of 1 / (1 + margin) would lose everything on one better item.
        self._stakes = np.arange(1, _NUM_STAKES + 1) / (_NUM_STAKES + 1) / (1 + margin)
        self._log_wealth = np.zeros(_NUM_STAKES)

    def add(self, differences: Iterable[float]) -> None:
        for difference in differences:
            self._log_wealth += np.log1p(-self._stakes * (difference + self._margin))

    @property
    def is_hopeless(self) -> bool:
        """Whether the hypothesis is rejected now. It may be looked at after every item and be true only for a while."""
        peak = self._log_wealth.max()
        return bool(peak + np.log(np.exp(self._log_wealth - peak).mean()) >= -np.log(ALPHA))
