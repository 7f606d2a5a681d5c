"""Whether a candidate is faster than an incumbent: a test that stops as soon as it can tell, with stated error rates. Pure.

Both are measured in blocks of A B B A or B A A B, whose order a coin decides. If the two are equally fast, the coin alone
decides which of a block's times are called the candidate's. So a block's log ratio is as likely to be x as to be -x, whatever
the machine did meanwhile: neighbours that come and go for minutes, drift, heavy tails. A bet on its being above 0 then has no
edge, and `Wealth` tells with an error rate that needs no model of the noise.
"""

from __future__ import annotations

import math
from typing import Literal

from optimizer.evaluation.betting import Wealth

FALSE_PROMOTION = 0.01
"""Probability at most that a candidate which is no faster is called faster."""
MISSED_GAIN = 0.05
"""Probability at most that a candidate which is faster by `GAIN` or more is called no better."""
GAIN = 0.03

Verdict = Literal["faster", "no better", "undecided"]


class FasterTest:
    """Takes blocks one by one; `verdict` may be looked at after each, and the first that is not "undecided" stands."""

    def __init__(self) -> None:
        self.log_ratios: list[float] = []
        self._not_faster = Wealth()
        self._gains = Wealth()
        self.verdict: Verdict = "undecided"

    def add(self, incumbent_ms: float, candidate_ms: float) -> Verdict:
        """Take a block: the geometric mean of each one's two times in it."""
        if not (0 < incumbent_ms < math.inf and 0 < candidate_ms < math.inf):
            raise ValueError(f"times must be above 0 and finite, got {incumbent_ms} and {candidate_ms}")
        ratio = math.log(incumbent_ms / candidate_ms)
        self.log_ratios.append(ratio)
        # By the sign alone: one wild block decides nothing.
        self._not_faster.bet(_sign(ratio))
        self._gains.bet(_sign(math.log1p(GAIN) - ratio))
        if self.verdict == "undecided":
            if self._not_faster.rejects(FALSE_PROMOTION):
                self.verdict = "faster"
            elif self._gains.rejects(MISSED_GAIN):
                self.verdict = "no better"
        return self.verdict


def _sign(number: float) -> float:
    return float((number > 0) - (number < 0))
