"""Error rate and power of the test that ends hopeless candidates, by simulation of item results."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.evaluation.sequential import ALPHA, Hopelessness


def ends_at(differences: np.ndarray, margin: float) -> int | None:
    """The item after which the candidate is ended, looked at after each; None if it never is."""
    test = Hopelessness(margin)
    for index, difference in enumerate(differences):
        test.add([difference])
        if test.is_hopeless:
            return index + 1
    return None


def ended(worse: float, better: float, margin: float, *, num_items: int, num_studies: int) -> list[int | None]:
    rng = np.random.default_rng(0)
    draws = rng.choice([-1, 1, 0], size=(num_studies, num_items), p=[worse, better, 1 - worse - better])
    return [ends_at(row, margin) for row in draws]


@pytest.mark.parametrize(("worse", "better"), [(0.12, 0.10), (0.02, 0.0)])
def test_one_at_the_margin_is_ended_as_seldom_as_stated(worse: float, better: float) -> None:
    """The worst that is still within the margin, looked at after every one of 200 items: at most 1 % plus chance."""
    studies = ended(worse, better, 0.02, num_items=200, num_studies=200)
    assert sum(end is not None for end in studies) / len(studies) <= ALPHA + 3 * (ALPHA / 200) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("worse", "better"), [(0.3, 0.28), (0.12, 0.10), (0.05, 0.03), (0.02, 0.0)])
def test_the_error_rate_over_long_sets(worse: float, better: float) -> None:
    studies = ended(worse, better, 0.02, num_items=1500, num_studies=1500)
    assert sum(end is not None for end in studies) / len(studies) <= ALPHA + 3 * (ALPHA / 1500) ** 0.5


def test_a_broken_candidate_is_ended_early() -> None:
    """From 60 % right to none of these: a few dozen items of 300 are enough."""
    ends = [end for end in ended(0.6, 0.0, 0.02, num_items=300, num_studies=40) if end]
    assert len(ends) == 40 and np.median(ends) < 25


def test_a_clear_regression_is_ended() -> None:
    ends = [end for end in ended(0.25, 0.05, 0.02, num_items=300, num_studies=60) if end]
    assert len(ends) >= 55


def test_equal_models_go_on() -> None:
    assert all(end is None for end in ended(0.05, 0.05, 0.02, num_items=300, num_studies=60))


def test_one_better_item_never_ruins_the_wealth() -> None:
    test = Hopelessness(0.02)
    test.add([1.0] * 5 + [-1.0] * 60)
    assert test.is_hopeless


def test_margins_that_mean_nothing() -> None:
    with pytest.raises(ValueError, match=r"at least 0 and below 1, got 1\.5"):
        Hopelessness(1.5)
