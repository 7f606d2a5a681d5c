"""Recorded noise replayed: what decision 0053 says of slowdowns and promotions, on fewer seeds than there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import replayed_nights as replayed
from optimizer.retune.speed import REFERENCE_BLOCKS

pytest.importorskip("otava", reason="`make setup` installs it")
NOISE = Path(__file__).parents[3] / "benchmarks" / "results" / "2026-12-01-noise-epyc-2core.jsonl"


@pytest.fixture(scope="module", params=["reference", "itself"])
def sessions(request: pytest.FixtureRequest) -> replayed.Floats:
    return replayed.read_sessions(NOISE, "quartile", request.param, "before")


def test_what_was_recorded(sessions: replayed.Floats) -> None:
    """Blocks of several sessions, and nothing impossible among them."""
    assert sessions.shape[0] >= 10 and sessions.shape[1] >= 40
    assert np.isfinite(sessions).all() and np.abs(np.median(sessions)) < 0.3


def test_a_ratio_is_of_the_other_over_the_incumbent() -> None:
    assert replayed.log_ratios([[2.0, 2.0, 4.0, 4.0], [1.0, 4.0, 1.0, 1.0]]) == pytest.approx([np.log(2), -np.log(2)])


@pytest.mark.parametrize("method", replayed.METHODS)
def test_a_large_step_is_found_and_nothing_else(method: str) -> None:
    """Nearly noiseless nights that become 30 % slower: one alarm, within three nights."""
    nights = 0.001 * np.random.default_rng(0).standard_normal(24)
    nights[18:] -= np.log(1.3)
    (alarm,) = [night for night in replayed.METHODS[method](nights) if night >= 18]
    assert 18 <= alarm < 18 + replayed.WITHIN_NIGHTS


def test_the_ranks_keep_their_rate_whatever_the_noise() -> None:
    """At most one alarm in 100 nights, with tails so heavy that there is no mean."""
    rng = np.random.default_rng(1)
    alarms = sum(len(replayed.rank_alarms(rng.standard_cauchy(60))) for _ in range(20))
    assert alarms / 1200 < 0.01


@pytest.mark.slow
def test_slowdowns_are_found_within_three_nights() -> None:
    found = replayed.slowdowns(
        replayed.read_sessions(NOISE, "quartile", "reference", "before"), REFERENCE_BLOCKS, range(40), "fresh"
    )
    assert found["otava"]["found"] >= 0.9 and found["otava"]["false"] < 0.01
    assert found["5 %"]["found"] < 0.5 and found["10 %"]["found"] == 0


@pytest.mark.slow
def test_what_is_promoted() -> None:
    noise = replayed.read_sessions(NOISE, "quartile", "itself", "before")
    better, equal = (replayed.promotions(noise, gain, range(20), "fresh") for gain in (replayed.GAIN, 0.0))
    assert better["sequential test"]["promoted"] >= 0.95 and equal["sequential test"]["promoted"] < 0.01
    assert better["10 %"]["promoted"] < 0.05
