"""The studentized bootstrap: coverage by simulation, and scipy's bootstrap where both must agree."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from optimizer.evaluation.confidence import ratio_of_sums


def sample(rng: np.random.Generator, num_sequences: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Per-sequence sums with a log-normal mean per token, and the numbers of tokens; the true ratio is exp(sigma^2/2)."""
    num_tokens = rng.integers(100, 257, num_sequences).astype(np.float64)
    return num_tokens * rng.lognormal(0, sigma, num_sequences), num_tokens


@pytest.mark.parametrize(("num_sequences", "least", "most_above"), [(16, 0.90, 0.07), (64, 0.92, 0.06)])
def test_coverage(num_sequences: int, least: float, most_above: float) -> None:
    """With long-tailed sequences the interval holds the truth nearly as often as it says."""
    rng, truth, num_studies = np.random.default_rng(0), np.exp(0.5**2 / 2), 400
    estimates = [ratio_of_sums(*sample(rng, num_sequences, 0.5), seed=1, num_resamples=800) for _ in range(num_studies)]
    covered = sum(estimate.low <= truth <= estimate.high for estimate in estimates) / num_studies
    above = sum(truth > estimate.high for estimate in estimates) / num_studies
    assert covered >= least
    assert above <= most_above


def test_agrees_with_scipy_on_many_sequences() -> None:
    """On a large sample all bootstraps meet; scipy's BCa is written independently."""
    x, n = sample(np.random.default_rng(2), 400, 0.4)
    ours = ratio_of_sums(x, n, seed=0, num_resamples=4000)
    theirs = scipy.stats.bootstrap(
        (x, n), lambda a, b, axis=-1: a.sum(axis) / b.sum(axis), paired=True, vectorized=True, n_resamples=4000, rng=3
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(x.sum() / n.sum())
    assert abs(ours.low - theirs.low) < 0.1 * width
    assert abs(ours.high - theirs.high) < 0.1 * width


def test_long_sequences_weigh_more() -> None:
    assert ratio_of_sums([0, 0, 0, 900], [100, 100, 100, 900], seed=0).value == pytest.approx(0.75)


def test_deterministic_for_a_seed() -> None:
    x, n = sample(np.random.default_rng(3), 12, 0.5)
    assert ratio_of_sums(x, n, seed=5) == ratio_of_sums(x, n, seed=5)
    assert ratio_of_sums(x, n, seed=5) != ratio_of_sums(x, n, seed=6)


def test_scale_carries_through() -> None:
    x, n = sample(np.random.default_rng(4), 12, 0.5)
    one, thousand = ratio_of_sums(x, n, seed=0), ratio_of_sums(1000 * x, n, seed=0)
    assert (thousand.low, thousand.high) == pytest.approx((1000 * one.low, 1000 * one.high))


def test_equal_sequences_have_a_point() -> None:
    estimate = ratio_of_sums([10, 20, 30, 40], [1, 2, 3, 4], seed=0)
    assert estimate.low == estimate.value == estimate.high == 10


def test_one_odd_sequence_in_many_leaves_a_wide_interval() -> None:
    x = np.zeros(32)
    x[5] = 8
    estimate = ratio_of_sums(x, np.full(32, 128), seed=0)
    assert 3 * estimate.value < estimate.high < 8 * estimate.value


def test_too_few_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 sequences, got 3"):
        ratio_of_sums([1, 2, 3], [1, 1, 1], seed=0)
