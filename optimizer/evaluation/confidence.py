"""Confidence intervals of a mean over tokens, from few sequences of unequal length.

The tokens of a sequence are not independent, so sequences are what is resampled (a cluster bootstrap), and a mean is a
ratio of sums, so that a long sequence weighs more.

The interval is the studentized bootstrap (Efron and Tibshirani 1993, chapter 12) rather than the percentile or BCa one,
because the gate reads its upper end, and a sequence's KL has a long right tail. In simulation with 16 sequences of
log-normal KL (sigma 0.4 and 0.8), where the truth should lie above the upper end of a 95 % interval in 2.5 % of studies,
it does in 8 % and 13 % by percentiles, 6.5 % and 10 % by BCa, 4 % and 6 % studentized.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from artifacts.errors import UserError

MIN_SEQUENCES = 4
_SE_FLOOR = 0.25
"""Of the sample's standard error. A resample that misses the only unusual sequence has a standard error of zero; the
floor keeps its statistic finite, and gives one odd sequence in many about the upper end of a Poisson count of one."""


@dataclass(frozen=True)
class Estimate:
    """A value and its confidence interval."""

    value: float
    low: float
    high: float


def reach(level: float) -> float:
    """Standard deviations to either side of a normal mean that an interval of confidence `level` takes in."""
    return NormalDist().inv_cdf((1 + level) / 2)


def ratio_of_sums(
    numerators: ArrayLike,
    weights: ArrayLike,
    *,
    seed: int,
    level: float = 0.95,
    num_resamples: int | None = None,
    unheard: float = 0.0,
) -> Estimate:
    """sum(numerators) / sum(weights) and its interval at `level`; one entry of each per sequence.

    For KL per token the numerators are the sequences' sums of KL and the weights their numbers of tokens. Where every
    sequence has the same ratio the interval is that one point. Deterministic for a seed. Without `num_resamples` they are as
    many as put 16 beyond each end of the interval, and 2000 at least. The upper end leaves room for one more sequence, of
    which nothing was heard: one with `unheard` times the largest ratio.

    Raises UserError with fewer than 4 sequences: they say too little about their spread.
    """
    x, n = np.asarray(numerators, np.float64), np.asarray(weights, np.float64)
    if len(x) < MIN_SEQUENCES:
        raise UserError(
            f"a confidence interval needs at least {MIN_SEQUENCES} sequences, got {len(x)}; score more or shorter ones"
        )
    ratio = float(x.sum() / n.sum())
    standard_error = float(_standard_error(ratio, (x * x).sum(), (x * n).sum(), (n * n).sum(), n.sum()))
    room = max(unheard * float((x / n).max()) - ratio, 0.0) / len(x) if unheard else 0.0
    if standard_error <= 1e-12 * abs(ratio):
        return Estimate(ratio, ratio, ratio + room)
    tail = (1 - level) / 2
    num_resamples = num_resamples or max(2000, math.ceil(16 / tail))
    totals = _times_drawn(len(x), num_resamples, seed) @ np.stack([x, n, x * x, x * n, n * n], axis=1)
    ratios = totals[:, 0] / totals[:, 1]
    errors = _standard_error(ratios, totals[:, 2], totals[:, 3], totals[:, 4], totals[:, 1])
    statistics = (ratios - ratio) / np.maximum(errors, _SE_FLOOR * standard_error)
    low, high = np.quantile(statistics, [tail, 1 - tail])
    return Estimate(ratio, ratio - float(high) * standard_error, ratio - float(low) * standard_error + room)


@lru_cache(maxsize=4)
def _times_drawn(num: int, num_resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each of `num` sequences is in each resample: the same for every metric of a set."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num, np.full(num, 1 / num), size=num_resamples).astype(np.float64)


def _standard_error(
    ratio: float | NDArray[np.float64],
    xx: NDArray[np.float64],
    xn: NDArray[np.float64],
    nn: NDArray[np.float64],
    total: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Linearized standard error of a ratio: the root of sum (x - ratio n)^2, over sum n."""
    return np.sqrt(np.maximum(xx - 2 * ratio * xn + ratio * ratio * nn, 0)) / total
