from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.report.quantities import byte_size, figures, percentage
from optimizer.report.scale import Scale

POSITIVE = st.floats(1e-9, 1e9)


@given(st.lists(st.one_of(POSITIVE, st.just(0.0)), min_size=1, max_size=20))
def test_every_value_has_a_place_in_order(values: list[float]) -> None:
    scale = Scale.around(values)
    places = [scale.position(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= place <= 1 for place in places)


@given(POSITIVE, st.floats(1.5, 1e6))
def test_ticks_are_few_and_inside(low: float, ratio: float) -> None:
    scale = Scale.around([low, low * ratio])
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 16
    assert ticks == sorted(ticks)
    assert all(scale.low <= tick <= scale.high for tick in ticks)


def test_far_apart_is_logarithmic() -> None:
    assert Scale.around([1, 100]).is_log
    assert not Scale.around([10, 14]).is_log
    assert not Scale.around([0, 100]).is_log
    assert Scale(1, 100, True).position(10) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1.8731, "1.87"), (0.02954, "0.0295"), (538.06, "538"), (3.21e-6, "3.21e-6"), (-0.5, "-0.500")],
)
def test_figures(value: float, text: str) -> None:
    assert figures(value) == text


def test_units() -> None:
    assert (byte_size(96_400_000), byte_size(1_234_000_000)) == ("96.4 MB", "1.23 GB")
    assert percentage(0.0044).replace("\N{NO-BREAK SPACE}", " ") == "0.440 %"
    assert figures(math.inf) == "inf"
