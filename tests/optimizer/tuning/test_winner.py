from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from optimizer.measure.timing import interleaved_ms, typical_ms
from optimizer.tuning.winner import winner
from tests.optimizer.tuning.candidates import clear_candidates

TIMES = st.lists(st.floats(1.0, 100.0), min_size=1, max_size=8)


@given(clear_candidates(), st.lists(st.floats(-0.02, 0.02), min_size=8, max_size=8))
def test_every_tune_chooses_the_first_of_the_fastest(candidates: tuple[list[float], int], noise: list[float]) -> None:
    times, first = candidates
    measured = [time * (1 + error) for time, error in zip(times, noise, strict=False)]
    assert winner(range(len(times)), measured) == first


@given(TIMES)
def test_what_is_chosen_is_hardly_slower_than_the_fastest(times: list[float]) -> None:
    assert winner(times, times) < 1.06 * min(times)


@given(TIMES)
def test_neither_the_unit_nor_a_slow_candidate_changes_the_choice(times: list[float]) -> None:
    order = range(len(times))
    assert winner(order, times) == winner(order, [1024 * time for time in times])
    assert winner(order, times) == winner([*order, "slow"], [*times, 2 * max(times)])


def test_noise_below_the_tie_does_not_change_the_choice() -> None:
    assert winner("abc", [1.02, 1.0, 3.0]) == winner("abc", [1.0, 1.03, 2.9]) == "a"


def test_interleaving_gives_every_candidate_a_sample_a_round() -> None:
    order: list[str] = []
    samples = interleaved_ms({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=4, min_round_ms=0.001)
    assert [len(times) for times in samples.values()] == [4, 4]
    assert all(typical_ms(times) > 0 for times in samples.values())
