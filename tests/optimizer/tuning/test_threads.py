"""The number of threads beside a neighbour that is made up: it fills one of two cores in bursts, and the choice stays."""

from __future__ import annotations

import multiprocessing
import os
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.measure.disturbance import Disturbance
from optimizer.tuning.threads import LEAST_MOMENTS, MOST_DISTURBED, Decision, Moment, decide
from optimizer.tuning.winner import NEAR_TIE

#: seconds at which a tune measures threads: between stages that take about so long
MOMENTS_S = (0.0, 9.0, 13.0, 31.0, 34.0)
BURST_S = 20.0


def beside(neighbour: float, two_ms: float, one_ms: float, is_known: bool, rng: np.random.Generator) -> Decision:
    """What is decided beside a neighbour that runs for 20 s of every 40 s, `neighbour` seconds after the tune begins.

    Two threads then wait for each other: they take 2.5 times as long, one thread next to nothing more. `is_known`: the system
    counts what we waited for.
    """
    moments = []
    for at in MOMENTS_S:
        is_on = (at - neighbour) % (2 * BURST_S) < BURST_S
        noise = 1 + np.abs(rng.normal(0, 0.01, 3))
        slow = 2.5 if is_on else 1.0
        two, again, one = two_ms * slow * noise[0], two_ms * slow * noise[1], one_ms * (1.03 if is_on else 1.0) * noise[2]
        moments.append(Moment((two, one), again, disturbed=0.4 if is_on and is_known else 0.002))
    return decide(moments)


@given(st.floats(0, 40), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_neighbour_in_bursts_does_not_take_a_thread_away(begin: float, is_known: bool, seed: int) -> None:
    assert beside(begin, 10.0, 17.0, is_known, np.random.default_rng(seed)).chosen == 0


def test_one_moment_does_not_decide() -> None:
    """What was frozen once: one moment in which one thread is 65.8 % faster."""
    quiet, noisy = Moment((10.0, 17.0), 10.1), Moment((28.0, 16.9), 28.3)
    assert decide([quiet, noisy, quiet, noisy]).chosen == 0
    assert decide([noisy]).chosen == 0, "too few moments"


def test_where_fewer_threads_are_faster_on_a_quiet_machine_they_are_chosen() -> None:
    """As where two hyperthreads share a core's units."""
    quiet = [Moment((10.0, 8.0), again, 0.001) for again in (10.1, 9.9, 10.0, 10.05)]
    decision = decide(quiet)
    assert decision.chosen == 1
    assert decision.ms == (10.0, 8.0)
    assert decision.noise == pytest.approx(0.01)
    assert "4 of 4 moments undisturbed" in decision.reason


def test_disturbed_moments_say_nothing_and_too_few_others_leave_the_first() -> None:
    disturbed, quiet = Moment((10.0, 5.0), 10.0, 0.3), Moment((10.0, 8.0), 10.0)
    assert decide([disturbed] * 5).chosen == 0
    assert decide([disturbed] * 3 + [quiet] * (LEAST_MOMENTS - 1)).chosen == 0
    assert decide([disturbed] * 3 + [quiet] * LEAST_MOMENTS).chosen == 1


@given(st.lists(st.tuples(*[st.floats(1, 100)] * 4, st.floats(0, 0.1)), min_size=1, max_size=8))
def test_whoever_is_not_first_wins_in_every_moment_by_more_than_noise(samples: list[tuple[float, ...]]) -> None:
    moments = [Moment((a, b, c), again, disturbed) for a, b, c, again, disturbed in samples]
    decision = decide(moments)
    valid = [moment for moment in moments if moment.disturbed <= MOST_DISTURBED]
    if decision.chosen:
        assert len(valid) >= LEAST_MOMENTS
        for moment in valid:
            assert moment.ms[decision.chosen] * (1 + NEAR_TIE) < min(moment.ms[0], moment.again)
            assert moment.ms[decision.chosen] * (1 + decision.noise) < min(moment.ms[0], moment.again)


def _spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="Linux counts what threads wait for")
def test_a_neighbour_is_seen() -> None:
    """As many processes as there are cores, and ours on top: we wait for at least a fifth of the time."""
    neighbours = [multiprocessing.Process(target=_spin, args=(5.0,)) for _ in os.sched_getaffinity(0)]
    for neighbour in neighbours:
        neighbour.start()
    try:
        _spin(0.1)  # until they run
        disturbance = Disturbance()
        _spin(0.5)
        assert disturbance.share() > 0.2
    finally:
        for neighbour in neighbours:
            neighbour.terminate()
            neighbour.join()
