"""Each item of a call is done once, by whoever comes, in whatever order; and one who comes late takes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.kernels.claiming import Claiming, Turn

MOST_OF_A_PART = 0xFFFF


@pytest.fixture(scope="module")
def claims(claiming: Claiming) -> Iterator[int]:
    """Of up to 16 threads; used again and again, as a team's are."""
    made = claiming.call("claims_create", 16)
    yield made
    claiming.call("claims_destroy", made)


def order(world: int) -> st.SearchStrategy[list[int]]:
    """Who claims; some threads never."""
    return st.lists(st.integers(0, world - 1), max_size=60)


@st.composite
def turns(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, list[int]]]]:
    """A number of threads, and for each call its items, its grain and who claims first."""
    world = draw(st.integers(2, 16))
    sizes = st.one_of(
        st.integers(0, 40), st.integers(0, 5000), st.integers(world * MOST_OF_A_PART - 3, 3 * world * MOST_OF_A_PART)
    )
    return world, draw(st.lists(st.tuples(sizes, st.integers(1, 20), order(world)), min_size=1, max_size=4))


@pytest.mark.parametrize("start", [0, 2**31 - 3, 2**32 - 3])
def test_each_item_is_taken_once(claiming: Claiming, claims: int, start: int) -> None:
    """Numbers of turns may start over in the middle."""

    @given(turns())
    @example((2, [(1, 1, [1])]))
    @example((16, [(7, 8, [15] * 9)]))
    def check(given: tuple[int, list[tuple[int, int, list[int]]]]) -> None:
        world, calls = given
        claiming.call("claims_reset", claims, world, start)
        earlier: list[Turn] = []
        for index, (count, grain, claimants) in enumerate(calls):
            turn = Turn(claiming, claims, world, (start + 1 + index) % 2**32, count, grain)
            taken = [turn.next(rank) for rank in claimants]
            while piece := turn.next(0):  # one thread alone can finish
                taken.append(piece)
            assert turn.is_over()
            pieces = sorted(filter(None, taken), key=lambda piece: piece.start)
            assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces)][: len(pieces)]
            assert (pieces[-1].stop if pieces else 0) == count
            assert not any(late.next(rank) for late in [*earlier, turn] for rank in range(world))
            earlier.append(turn)

    check()


def test_parts_are_even_and_taken_from_both_ends(claiming: Claiming, claims: int) -> None:
    claiming.call("claims_reset", claims, 2, 0)
    turn = Turn(claiming, claims, 2, 1, 32, 2)
    assert turn.next(0) == range(0, 4)
    assert turn.next(1) == range(16, 20)
    assert [turn.next(0) for _ in range(4)] == [range(4, 8), range(8, 10), range(10, 12), range(12, 14)]
    assert turn.next(0) == range(14, 16)
    assert turn.next(0) == range(28, 32), "the back of the other's part"
    assert turn.next(1) == range(20, 22)
    assert not turn.is_over()
