"""Loops, against their definition tried out on random graphs, and on the shapes that compilers write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.compile.control_flow import natural_loops
from kernels.compile.instructions import Instruction, UnreadableCode


def step(address: int, *targets: int, continues: bool = True) -> Instruction:
    return Instruction(address, "STEP", "other", targets=targets, continues=continues)


def test_a_loop_in_a_loop_owns_its_body_and_the_outer_one_the_rest() -> None:
    code = [step(0), step(1), step(2), step(3, 2), step(4, 1), step(5, continues=False)]
    outer, inner = natural_loops(code)
    assert (outer.header, outer.depth, [instruction.address for instruction in outer.own]) == (1, 1, [1, 4])
    assert (inner.header, inner.depth, [instruction.address for instruction in inner.own]) == (2, 2, [2, 3])


def test_the_slow_path_of_a_wait_behind_the_end_is_part_of_its_loop_and_no_loop_from_there() -> None:
    """0 header: wait, else go to 4; 1-2 body, back to 0; 3 end; 4 spin; 5 back into the body."""
    code = [step(0, 4), step(1), step(2, 0), step(3, continues=False), step(4, 4), step(5, 1, continues=False)]
    loop, spin = natural_loops(code)
    assert (loop.header, [instruction.address for instruction in loop.own]) == (0, [0, 1, 2, 5])
    assert (spin.header, spin.depth, [instruction.address for instruction in spin.own]) == (4, 2, [4])


def test_two_ways_back_to_one_header_are_one_loop() -> None:
    code = [step(0), step(1, 0), step(2), step(3, 0), step(4, continues=False)]
    (loop,) = natural_loops(code)
    assert [instruction.address for instruction in loop.own] == [0, 1, 2, 3]


def test_code_without_a_way_back_has_no_loop() -> None:
    assert natural_loops([step(0, 2), step(1), step(2, continues=False)]) == ()
    assert natural_loops([]) == ()


def test_code_that_nothing_reaches_has_no_loop() -> None:
    assert natural_loops([step(0, continues=False), step(1, 1), step(2, 1)]) == ()


def test_a_branch_into_nowhere_is_refused() -> None:
    with pytest.raises(UnreadableCode, match="goes to 0x7, where none is"):
        natural_loops([step(0, 7)])


@st.composite
def codes(draw: st.DrawFn) -> list[Instruction]:
    length = draw(st.integers(1, 12))
    addresses = st.integers(0, length - 1)
    return [step(address, *draw(st.lists(addresses, max_size=2)), continues=draw(st.booleans())) for address in range(length)]


def reachable(code: list[Instruction], start: int, without: int | None = None) -> set[int]:
    """Addresses on paths from `start` that avoid `without`."""
    found: set[int] = set()
    pending = [start]
    while pending:
        address = pending.pop()
        if address in found or address == without or address >= len(code):
            continue
        found.add(address)
        pending += [*code[address].targets, *([address + 1] if code[address].continues else [])]
    return found


@given(codes())
def test_loops_are_what_the_definition_says(code: list[Instruction]) -> None:
    """h heads a loop if some s with an edge to h is reached through h only; its body reaches such an s without passing h."""
    edges = [
        (address, target)
        for address in reachable(code, 0)
        for target in {*code[address].targets, *([address + 1] if code[address].continues else [])}
        if target < len(code)
    ]
    bodies: dict[int, set[int]] = {}
    for source, header in edges:
        if source not in reachable(code, 0, without=header):
            into = {address for address in reachable(code, 0) if source in reachable(code, address, without=header)}
            bodies.setdefault(header, {header}).update(into)
    expected = {
        header: (
            sum(header in body for body in bodies.values()),
            body - set().union(*(bodies[inner] for inner in bodies if inner != header and inner in body)),
        )
        for header, body in bodies.items()
    }
    found = {loop.header: (loop.depth, {instruction.address for instruction in loop.own}) for loop in natural_loops(code)}
    assert found == expected
