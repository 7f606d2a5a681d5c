"""Tango's interval against a profile likelihood maximized by scipy, its error rates by simulation, McNemar against scipy."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from optimizer.evaluation.paired import Paired, least_items, mcnemar_p, tango_interval


def profile_statistic(worse: int, better: int, n: int, d: float) -> float:
    """The score statistic of a difference d, with the probability of a worse item found by maximizing the likelihood."""

    def negative_log_likelihood(q: float) -> float:
        probabilities = np.clip([q, q + d, 1 - 2 * q - d], 1e-15, 1)
        return -float(np.dot([worse, better, n - worse - better], np.log(probabilities)))

    bounds = (max(0.0, -d), (1 - d) / 2)
    q = scipy.optimize.minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x
    return float((better - worse - n * d) / np.sqrt(n * (2 * q + d - d * d)))


@pytest.mark.parametrize(("worse", "better", "n"), [(2, 12, 50), (9, 4, 100), (1, 1, 30), (0, 5, 40), (30, 25, 80)])
def test_the_ends_are_where_the_profile_likelihoods_statistic_is_the_quantile(worse: int, better: int, n: int) -> None:
    interval = tango_interval(worse, better, n)
    assert interval.value == (better - worse) / n
    assert profile_statistic(worse, better, n, interval.low) == pytest.approx(1.959964, abs=1e-3)
    assert profile_statistic(worse, better, n, interval.high) == pytest.approx(-1.959964, abs=1e-3)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60))
def test_the_interval_turns_with_its_counts(worse: int, better: int, same: int) -> None:
    n = max(1, worse + better + same)
    one, other = tango_interval(worse, better, n), tango_interval(better, worse, n)
    assert -1 <= one.low <= one.value <= one.high <= 1
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def false_passes(n: int, discordant: float, margin: float, num_studies: int) -> float:
    """How often a candidate that is exactly `margin` worse passes."""
    worse, better = (discordant + margin) / 2, (discordant - margin) / 2

    @cache
    def passes(num_worse: int, num_better: int) -> bool:
        return tango_interval(num_worse, num_better, n).low >= -margin

    counts = np.random.default_rng(0).multinomial(n, [worse, better, 1 - discordant], num_studies)
    return float(np.mean([passes(int(w), int(b)) for w, b, _ in counts]))


@pytest.mark.parametrize(("n", "discordant", "margin"), [(200, 0.1, 0.05), (400, 0.02, 0.02), (100, 0.3, 0.1)])
def test_a_candidate_at_the_margin_passes_no_more_often_than_stated(n: int, discordant: float, margin: float) -> None:
    """2.5 % is stated; 3,000 studies show it to within 0.6 points."""
    assert false_passes(n, discordant, margin, 3000) <= 0.031


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 100, 200, 500, 1000])
@pytest.mark.parametrize("margin", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("excess", [0.0, 0.05, 0.2])
def test_the_error_rate_over_many_cases(n: int, margin: float, excess: float) -> None:
    assert false_passes(n, margin + excess, margin, 40_000) <= 0.0285


def test_mcnemar_is_exact() -> None:
    for worse, better in [(0, 0), (1, 0), (3, 9), (20, 20), (0, 12)]:
        expected = scipy.stats.binomtest(worse, worse + better).pvalue if worse + better else 1.0
        assert mcnemar_p(worse, better) == pytest.approx(expected)


def test_scores_between_right_and_wrong_get_a_bootstrap() -> None:
    rng = np.random.default_rng(1)
    baseline = rng.random(200)
    candidate = np.clip(baseline - 0.05 + 0.1 * rng.standard_normal(200), 0, 1)
    paired = Paired.of(baseline.tolist(), candidate.tolist())
    theirs = scipy.stats.bootstrap((candidate - baseline,), np.mean, rng=2).confidence_interval
    assert not paired.is_binary
    assert (paired.difference.low, paired.difference.high) == pytest.approx((theirs.low, theirs.high), abs=2e-3)
    needed = paired.items_needed(0.06)
    assert needed is not None and needed > 200 and paired.items_needed(0.03) is None


def test_so_many_items_more_do_show_it() -> None:
    """Where the rest are like those seen, the number that is asked for is enough, and hardly more than enough."""
    baseline, candidate = [1.0] * 100, [0.0] * 2 + [1.0] * 98
    needed = Paired.of(baseline, candidate).items_needed(0.04)
    assert needed is not None
    scale = needed / 100
    assert tango_interval(2 * scale, 0, needed).low >= -0.04
    assert tango_interval(2 * scale * 0.98, 0, round(needed * 0.98)).low < -0.04
    assert Paired.of(baseline, [0.0] * 5 + [1.0] * 95).items_needed(0.04) is None


def test_the_least_items_of_a_margin() -> None:
    for margin in (0.01, 0.02, 0.1):
        n = least_items(margin)
        assert tango_interval(0, 0, n).low >= -margin > tango_interval(0, 0, n - 1).low


def test_models_without_common_items_are_refused() -> None:
    with pytest.raises(ValueError, match="same items, got 2 and 1"):
        Paired.of([1.0, 0.0], [1.0])
