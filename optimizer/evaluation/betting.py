"""A test that may be looked at after every observation: a gambler's wealth.

A gambler bets on each observation before it is seen. If the hypothesis is true no bet has an edge, so wealth can only shrink on
average, whatever the order and however often it is looked at, and it ever reaches 1 / alpha with probability alpha at most
(Ville's inequality). So a hypothesis against which wealth has reached 1 / alpha is rejected with that error rate, at any time.
(Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, 2023.) The wealth here is the mean over
several fixed stakes, so that nothing need be known of how wrong the hypothesis is.
"""

from __future__ import annotations

import math

import numpy as np

_NUM_STAKES = 16


class Wealth:
    """Wealth against a hypothesis under which no observation is above 0 on average.

    Observations are at least -1; `largest_loss` is how far below 0 one can be (1 unless the caller knows better).
    """

    def __init__(self, largest_loss: float = 1.0) -> None:
        # A stake of 1 / largest_loss would lose everything on one observation.
        self._stakes = np.arange(1, _NUM_STAKES + 1) / (_NUM_STAKES + 1) / largest_loss
        self._log_wealth = np.zeros(_NUM_STAKES)

    def bet(self, observation: float) -> None:
        self._log_wealth += np.log1p(self._stakes * observation)

    @property
    def log(self) -> float:
        """ln of the wealth; it was 0 before the first bet."""
        peak = float(self._log_wealth.max())
        return peak + math.log(float(np.exp(self._log_wealth - peak).mean()))

    def rejects(self, alpha: float) -> bool:
        """Whether the hypothesis is rejected now, with a probability of at most `alpha` of being wrong, ever."""
        return self.log >= -math.log(alpha)
