"""Races with scripted times: who leaves, when they end, and what noise decides."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from optimizer.tuning.race import MOST_PASSES, Finish, Standings, race
from tests.optimizer.tuning.candidates import clear_candidates

Passes = list[list[int]]


def scripted(times: Sequence[float], self_difference: float = 0.0) -> tuple[Finish, Passes]:
    """A race whose candidates always take the same times, and the candidates of each of its passes."""
    passes: Passes = []

    def measure(running: Sequence[int]) -> Standings:
        passes.append(list(running))
        return Standings(times, [self_difference] * len(passes))

    return race(len(times), measure), passes


@given(clear_candidates())
def test_without_noise_the_first_of_the_fastest_wins(candidates: tuple[list[float], int]) -> None:
    times, first = candidates
    finish, passes = scripted(times)
    assert finish.winner == first
    assert finish.ms == tuple(times)
    assert 1 <= len(passes) <= MOST_PASSES


@given(st.lists(st.floats(1.0, 100.0), min_size=2, max_size=12), st.floats(0.0, 0.5))
def test_whoever_left_does_not_come_back(times: list[float], noise: float) -> None:
    _, passes = scripted(times, noise)
    for before, after in pairwise(passes):
        assert set(after) <= set(before)
    fastest = times.index(min(times))
    assert all(fastest in running for running in passes)


def test_a_clear_race_ends_after_one_pass() -> None:
    assert scripted([1.0, 1.5, 2.0])[1] == [[0, 1, 2]]
    finish, passes = scripted([3.0, 1.5, 1.0])
    assert finish.winner == 2 and len(passes) == 1


def test_clear_losers_leave_and_the_others_go_on() -> None:
    finish, passes = scripted([1.045, 1.0, 2.0, 1.2], self_difference=0.02)
    assert passes == [[0, 1, 2, 3], [0, 1, 3], [0, 1]]
    assert finish.winner == 0


def test_one_disturbed_sample_does_not_throw_the_first_out() -> None:
    """As seen beside other work: the first candidate 13 % slower in the first pass, as fast as the others from then on."""
    passes: Passes = []

    def measure(running: Sequence[int]) -> Standings:
        passes.append(list(running))
        return Standings([1.13 if len(passes) == 1 else 1.0, 1.0, 1.01], [0.02] * len(passes))

    assert race(3, measure).winner == 0
    assert passes == [[0, 1, 2]] * 2


def test_what_a_candidate_differs_from_itself_decides_nothing() -> None:
    assert scripted([1.08, 1.0])[0].winner == 1
    noisy, passes = scripted([1.08, 1.0], self_difference=0.3)
    assert noisy.winner == 0 and len(passes) == MOST_PASSES
    assert noisy.noise > 0.08


def test_noise_shrinks_with_passes() -> None:
    assert Standings([1.0], [0.1, 0.1, 0.1, 0.1]).noise == 0.05
