"""The test whether a candidate is faster keeps its error rates under noise that no model of it describes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.measure.faster import FasterTest, Verdict

NIGHTS = 400
MOST_BLOCKS = 120


def times_ms(rng: np.random.Generator, spread: float) -> Iterator[float]:
    """Step times beside neighbours that come and go for minutes, with spikes: nothing about them is independent or normal."""
    slowed = 1.0
    while True:
        if rng.random() < 0.02:
            slowed = float(rng.choice([1.0, 1.3, 2.2]))
        spike = rng.exponential(0.5) if rng.random() < 0.08 else 0.0
        yield 9.0 * slowed * float(np.exp(spread * rng.standard_normal())) * (1 + spike)


def night(seed: int, gain: float, spread: float) -> Verdict:
    """One comparison, in blocks of A B B A or B A A B; the candidate is `gain` faster."""
    rng = np.random.default_rng(seed)
    noise, test = times_ms(rng, spread), FasterTest()
    while test.verdict == "undecided" and len(test.log_ratios) < MOST_BLOCKS:
        one, two, three, four = (next(noise) for _ in range(4))
        outer, inner = float(np.sqrt(one * four)), float(np.sqrt(two * three))
        incumbent, candidate = (outer, inner) if rng.random() < 0.5 else (inner, outer)
        test.add(incumbent, candidate / (1 + gain))
    return test.verdict


def shares(gain: float, spread: float, nights: int = NIGHTS) -> dict[str, float]:
    counts = Counter(night(seed, gain, spread) for seed in range(nights))
    return {verdict: count / nights for verdict, count in counts.items()}


@pytest.mark.parametrize("spread", [0.01, 0.03])
def test_a_candidate_that_is_no_better(spread: float) -> None:
    """Called faster in under 1 % of nights; and most nights end by themselves."""
    for gain in (0.0, -0.03):
        found = shares(gain, spread)
        assert found.get("faster", 0) < 0.01 and found["no better"] > 0.95


@pytest.mark.parametrize("spread", [0.01, 0.03])
def test_a_candidate_that_is_better(spread: float) -> None:
    assert shares(0.05, spread)["faster"] > 0.95
    assert shares(0.03, spread).get("no better", 0) < 0.05


def test_too_noisy_to_tell_is_no_guess() -> None:
    found = shares(0.0, 0.2, nights=100)
    assert found.get("faster", 0) < 0.01 and found["undecided"] > 0.5


@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)), max_size=60), st.floats(1e-3, 1e3))
def test_the_verdict_is_of_ratios_alone(blocks: list[tuple[float, float]], unit: float) -> None:
    """It does not depend on the unit of time, and one verdict stands."""
    test, scaled = FasterTest(), FasterTest()
    verdicts = []
    for incumbent, candidate in blocks:
        verdicts.append(test.add(incumbent, candidate))
        scaled.add(incumbent * unit, candidate * unit)
    decided = [verdict for verdict in verdicts if verdict != "undecided"]
    assert len(set(decided)) <= 1
    np.testing.assert_allclose(test.log_ratios, scaled.log_ratios, atol=1e-9)


def test_one_wild_block_decides_nothing() -> None:
    test = FasterTest()
    for _ in range(3):
        test.add(9.0, 9.0001)
    assert test.add(9e6, 9.0) == "undecided"


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_is_above_0(bad: float) -> None:
    with pytest.raises(ValueError, match="times must be above 0"):
        FasterTest().add(9.0, bad)
