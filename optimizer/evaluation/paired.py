"""Two models on the same items: the difference of their scores, with an interval, and how many items would settle it.

Where every score is 0 or 1 only the discordant items say anything: those that one model has right and the other wrong.
The interval of the difference of two paired proportions is Tango's score interval (Statistics in Medicine 17, 1998), which
inverts the score test of non-inferiority itself: unlike a bootstrap or a Wald interval it does not shrink to a point where
no discordant item was seen. Other scores get the studentized bootstrap of `confidence.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optimizer.evaluation.confidence import MIN_SEQUENCES, Estimate, ratio_of_sums, reach

LEVEL = 0.95
_MOST_ITEMS = 1 << 24


@dataclass(frozen=True)
class Paired:
    """A candidate against its baseline on `num_items` common items. `difference` is candidate - baseline."""

    num_items: int
    baseline: float
    candidate: float
    num_worse: int
    """Items that the baseline scored higher."""
    num_better: int
    difference: Estimate
    mcnemar_p: float
    """Exact two-sided p-value of equal scores, by the discordant items alone (McNemar's test; a sign test for other scores)."""
    spread: float
    """Standard deviation of an item's difference."""
    level: float = LEVEL
    """Confidence of the interval, two-sided."""

    @classmethod
    def of(cls, baseline: Sequence[float], candidate: Sequence[float], *, seed: int = 0, level: float = LEVEL) -> Paired:
        """Scores of both models between 0 and 1, item by item; `seed` is the bootstrap's. ValueError without items."""
        if not baseline or len(baseline) != len(candidate):
            raise ValueError(f"both models must have scores of the same items, got {len(baseline)} and {len(candidate)}")
        n = len(baseline)
        differences = [ours - theirs for ours, theirs in zip(candidate, baseline, strict=True)]
        worse, better = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
        mean = sum(differences) / n
        return cls(
            num_items=n,
            baseline=sum(baseline) / n,
            candidate=sum(candidate) / n,
            num_worse=worse,
            num_better=better,
            difference=_interval(differences, seed, level),
            mcnemar_p=mcnemar_p(worse, better),
            spread=math.sqrt(sum((d - mean) ** 2 for d in differences) / n),
            level=level,
        )

    @property
    def is_binary(self) -> bool:
        """Whether every item's difference is -1, 0 or 1."""
        return math.isclose(self.difference.value * self.num_items, self.num_better - self.num_worse, abs_tol=1e-9)

    def items_needed(self, margin: float) -> int | None:
        """About how many items in all would show non-inferiority at `margin`, if the rest are like these.

        None where they would not: the observed difference itself is not within the margin.
        """
        if self.difference.value <= -margin:
            return None

        def shows(num_items: int) -> bool:
            if self.is_binary:
                scale = num_items / self.num_items
                low = tango_interval(scale * self.num_worse, scale * self.num_better, num_items, self.level).low
            else:
                low = self.difference.value - reach(self.level) * self.spread / math.sqrt(num_items)
            return low >= -margin

        return _least(shows, self.num_items)


def least_items(margin: float) -> int:
    """Items without which nothing can be shown at `margin`, even where both models agree on every one."""
    found = _least(lambda n: tango_interval(0, 0, n).low >= -margin, 0)
    assert found is not None
    return found


def tango_interval(worse: float, better: float, num_items: int, level: float = LEVEL) -> Estimate:
    """(better - worse) / num_items and its score interval; the counts may be fractions.

    An end is where the score statistic (better - worse - n d) / sqrt(n (2 q + d (1 - d))) of a difference d is z or -z;
    q is the most likely probability of a worse item if d is true, the larger root of a quadratic (Tango 1998).
    """
    n, z = num_items, reach(level)

    def statistic(d: float) -> float:
        b = -better - worse + (2 * n - better + worse) * d
        q = (math.sqrt(max(b * b + 8 * n * worse * d * (1 - d), 0.0)) - b) / (4 * n)
        excess, variance = better - worse - n * d, n * (2 * q + d * (1 - d))
        return excess / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, excess)

    def end(outside: float) -> float:
        """By bisection, between the observed difference and the end of what is possible: the statistic falls with d."""
        inside = value
        for _ in range(60):
            middle = (inside + outside) / 2
            if abs(statistic(middle)) < z:
                inside = middle
            else:
                outside = middle
        return outside

    value = (better - worse) / n
    return Estimate(value, end(-1.0), end(1.0))


def mcnemar_p(worse: int, better: int) -> float:
    """Exact two-sided p-value of McNemar's test: that discordant items fall to both sides alike. 1 without any."""
    total = worse + better
    tail = sum(math.comb(total, k) for k in range(min(worse, better) + 1))
    return float(min(1.0, 2 * tail / 2**total))


def _interval(differences: Sequence[float], seed: int, level: float) -> Estimate:
    if all(d in (-1, 0, 1) for d in differences):
        return tango_interval(sum(d < 0 for d in differences), sum(d > 0 for d in differences), len(differences), level)
    if len(differences) < MIN_SEQUENCES:
        return Estimate(sum(differences) / len(differences), -1.0, 1.0)
    return ratio_of_sums(differences, [1.0] * len(differences), seed=seed, level=level)


def _least(holds: Callable[[int], bool], low: int) -> int | None:
    """The smallest number above `low` at which `holds`, which then stays so; None if there is none to speak of."""
    high = low + 1
    while not holds(high):
        if high > _MOST_ITEMS:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
