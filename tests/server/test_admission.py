"""The queue's bounds against a simulated server whose true rate is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runtime.engine_core import EngineStats
from runtime.server.admission import Admission, Overloaded

STATS = EngineStats(
    num_running=4,
    num_waiting=0,
    num_free_blocks=0,
    num_blocks=1,
    num_preemptions=0,
    num_cached_tokens=0,
    num_prompt_tokens=0,
    num_generated_tokens=0,
    num_ended=0,
)


def served(rate: float, seconds: float, tick_s: float = 0.05, num_waiting: int = 9) -> Admission:
    """What an admission has learned from a server that ends `rate` sequences a second while others wait."""
    admission = Admission(num_seats=4, max_queue=1000, max_wait_s=1e9)
    for tick in range(math.ceil(seconds / tick_s) + 1):
        admission.observe(tick * tick_s, replace(STATS, num_waiting=num_waiting, num_ended=int(tick * tick_s * rate)))
    return admission


@given(rate=st.floats(0.05, 50), seconds=st.floats(30, 400), num_ahead=st.integers(0, 500))
def test_the_wait_is_what_the_measured_rate_makes_it(rate: float, seconds: float, num_ahead: int) -> None:
    assume(rate * min(seconds, 60) >= 10)
    wait_s = served(rate, seconds, tick_s=0.2).wait_s(num_ahead)
    assert wait_s is not None
    assert wait_s == pytest.approx((num_ahead + 1) / rate, rel=0.25)


@given(rate=st.floats(0.1, 20), ahead=st.lists(st.integers(0, 1000), min_size=2))
def test_a_longer_queue_takes_longer(rate: float, ahead: list[int]) -> None:
    admission = served(rate, 60, tick_s=0.5)
    waits = [admission.wait_s(n) for n in sorted(ahead)]
    assert all(wait is not None and wait > 0 for wait in waits)
    assert waits == sorted(waits)  # type: ignore[type-var]


def test_nothing_is_known_and_nobody_refused_before_a_sequence_has_ended() -> None:
    admission = Admission(num_seats=4, max_queue=1000, max_wait_s=0.001)
    for second in range(100):
        admission.observe(second, replace(STATS, num_waiting=50))
    assert admission.wait_s(5) is None
    admission.check(1, replace(STATS, num_waiting=50))


def test_the_first_of_those_that_began_together_says_nothing() -> None:
    """Four began at once, and would end at once: the first alone would make a queue of 20 wait for 20 x 3 s."""
    admission = Admission(num_seats=4, max_queue=1000, max_wait_s=30)
    for tick in range(31):
        admission.observe(tick / 10, replace(STATS, num_waiting=20))
    admission.observe(3.1, replace(STATS, num_waiting=19, num_ended=1))
    assert admission.wait_s(19) is None
    admission.check(1, replace(STATS, num_waiting=19))
    admission.observe(3.2, replace(STATS, num_waiting=16, num_ended=4))
    assert admission.wait_s(15) == pytest.approx(16 * 3.2 / 4, rel=0.05)


@given(num_floods=st.integers(1, 6), max_queue=st.integers(8, 200))
def test_whoever_floods_the_queue_leaves_room_in_it(num_floods: int, max_queue: int) -> None:
    """k clients that take all they get leave about 1 / (k + 1) of the queue."""
    admission = Admission(num_seats=4, max_queue=max_queue, max_wait_s=1)
    waiting = [0] * num_floods
    refused: set[int] = set()
    while len(refused) < num_floods:
        for client in range(num_floods):
            try:
                admission.check(1, replace(STATS, num_waiting=sum(waiting)), waiting[client])
                waiting[client] += 1
            except Overloaded as error:
                assert error.reason == "queue_share" and error.retry_after_s >= 1
                refused.add(client)
    left = max_queue - sum(waiting)
    assert left >= max_queue // (num_floods + 1) - 1
    admission.check(max(1, left // 2), replace(STATS, num_waiting=sum(waiting)), 0)


def test_what_ends_while_nobody_waits_says_nothing_about_the_queue() -> None:
    admission = served(rate=2, seconds=100)
    before = admission.wait_s(3)
    for second in range(100, 150):
        admission.observe(second, replace(STATS, num_ended=200 + 1000 * (second - 100)))
    assert admission.wait_s(3) == pytest.approx(before)
    # and counts for less than what is new
    for second in range(150, 200):
        admission.observe(second, replace(STATS, num_waiting=2, num_ended=49_200 + 10 * (second - 150)))
    wait_s = admission.wait_s(0)
    assert wait_s is not None and wait_s < 0.3


def test_a_queue_that_stands_still_gets_longer_by_the_second() -> None:
    admission = served(rate=2, seconds=100)
    waits = []
    for second in range(100, 400, 20):
        admission.observe(second, replace(STATS, num_waiting=9, num_ended=200))
        waits.append(admission.wait_s(0))
    assert waits == sorted(waits) and waits[-1] > 100 * waits[0]  # type: ignore[type-var, operator]


@given(num_new=st.integers(1, 50), num_waiting=st.integers(0, 50), num_running=st.integers(0, 4), max_queue=st.integers(0, 50))
def test_seats_that_are_free_are_no_queue(num_new: int, num_waiting: int, num_running: int, max_queue: int) -> None:
    admission = Admission(num_seats=4, max_queue=max_queue, max_wait_s=1)
    stats = replace(STATS, num_waiting=num_waiting, num_running=num_running)
    fits = num_waiting + num_new <= max_queue + 4 - num_running
    try:
        admission.check(num_new, stats)
    except Overloaded as error:
        assert not fits and error.reason == "queue_full" and error.retry_after_s >= 1
    else:
        assert fits


def test_too_long_a_wait_is_refused_until_the_queue_is_short_enough() -> None:
    admission = served(rate=2, seconds=100)
    admission.max_wait_s = 10
    admission.check(1, replace(STATS, num_waiting=18))
    with pytest.raises(Overloaded, match="about 50 s now, more than the 10 s") as caught:
        admission.check(1, replace(STATS, num_waiting=99))
    assert caught.value.reason == "queue_too_slow"
    assert caught.value.retry_after_s == pytest.approx(40, abs=2)
    admission.check(1, replace(STATS, num_waiting=3, num_running=0))  # all of them have a seat


def test_a_full_queue_says_when_there_is_room() -> None:
    admission = served(rate=0.5, seconds=200)
    admission.max_queue = 10
    with pytest.raises(Overloaded, match="10 sequences are waiting, 10 may") as caught:
        admission.check(8, replace(STATS, num_waiting=10))
    assert caught.value.retry_after_s == pytest.approx(16, abs=2)


@pytest.mark.parametrize("bounds", [(-1, 1.0), (1, 0.0), (1, math.nan)])
def test_bounds_that_are_none(bounds: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match="max_queue must be at least 0 and max_wait above 0"):
        Admission(4, *bounds)
