"""Medians of turns, and the ratio of two engines' medians with its spread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_NUM_RESAMPLES = 10_000
#: value of each round in which an engine had its turn
Samples = Mapping[int, float]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one engine is as another, over the rounds in which both had a turn.

    `low` and `high` bound the ratio of medians at 95 % (percentile bootstrap over rounds); `worst` and `best` are the
    extremes of the rounds' own ratios: with n rounds, the median ratio lies between them with
    a probability of 1 - 2^(1 - n).
    """

    value: float
    low: float
    high: float
    worst: float
    best: float
    num_rounds: int


def median(samples: Samples) -> float:
    """ValueError where there is none."""
    if not samples:
        raise ValueError("a median needs at least one sample, got none")
    return float(np.median(list(samples.values())))


def ratio_of_medians(ours: Samples, theirs: Samples, *, is_rate: bool, seed: int = 0) -> Ratio:
    """Above 1 where ours is faster: rates are ours over theirs, times theirs over ours. ValueError without a common round."""
    rounds = sorted(ours.keys() & theirs.keys())
    if not rounds:
        raise ValueError("a ratio needs a round in which both engines had a turn, got none")
    pairs = np.array([(ours[i], theirs[i]) if is_rate else (theirs[i], ours[i]) for i in rounds], np.float64)
    each = pairs[:, 0] / pairs[:, 1]
    drawn = pairs[np.random.default_rng(seed).integers(0, len(pairs), (_NUM_RESAMPLES, len(pairs)))]
    above, below = np.moveaxis(np.median(drawn, axis=1), 1, 0)
    low, high = np.quantile(above / below, [0.025, 0.975])
    above, below = np.median(pairs, axis=0)
    return Ratio(float(above / below), float(low), float(high), float(each.min()), float(each.max()), len(rounds))
