from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from optimizer.measure.timing import interleaved_ms, typical_ms
from optimizer.tuning.winner import NEAR_TIE, winner


@given(st.lists(st.floats(1.0, 100.0), min_size=1, max_size=8))
def test_the_winner_is_the_first_of_the_near_tied(times: list[float]) -> None:
    index = winner(range(len(times)), times)
    assert times[index] <= min(times) * (1 + NEAR_TIE)
    assert all(time > min(times) * (1 + NEAR_TIE) for time in times[:index])


def test_noise_below_the_tie_does_not_change_the_choice() -> None:
    assert winner("abc", [1.02, 1.0, 3.0]) == winner("abc", [1.0, 1.03, 2.9]) == "a"


def test_interleaving_gives_every_candidate_a_sample_a_round() -> None:
    order: list[str] = []
    samples = interleaved_ms({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=4, min_round_ms=0.001)
    assert [len(times) for times in samples.values()] == [4, 4]
    assert all(typical_ms(times) > 0 for times in samples.values())
