"""Candidates of which some are as fast as the fastest and the others clearly slower."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def clear_candidates(draw: st.DrawFn) -> tuple[list[float], int]:
    """True times, and the first of the fastest: what any tune must choose, whatever it measures within a few per cent."""
    fastest = draw(st.floats(1.0, 100.0))
    slower = draw(st.lists(st.one_of(st.just(1.0), st.floats(1.12, 10.0)), min_size=1, max_size=8))
    slower[draw(st.integers(0, len(slower) - 1))] = 1.0
    return [fastest * factor for factor in slower], slower.index(1.0)
