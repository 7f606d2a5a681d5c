"""Nights -> series of speed over the frozen reference bundle, and the points where they moved. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from optimizer.history.change_points import ChangePoint, change_points
from optimizer.nights.changes import changes
from optimizer.nights.night import Night, Ratio

#: of a night's blocks: half of them lie between
_QUARTILES = (0.25, 0.75)


@dataclass(frozen=True)
class Point:
    """One night's speed over the reference, as a factor: above 1 is faster. Half of its blocks lie from `low` to `high`."""

    night: Night
    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, night: Night, ratio: Ratio) -> Point:
        low, high = np.exp(np.quantile(ratio.log_ratios, _QUARTILES))
        return cls(night, ratio.value, float(low), float(high))


@dataclass(frozen=True)
class Series:
    """One phase of one model against one reference, night by night. Ratios to two references are not comparable."""

    model: str
    phase: str
    reference: str
    points: tuple[Point, ...]

    @property
    def title(self) -> str:
        return f"{self.model}, {self.phase}"


@dataclass(frozen=True)
class Move:
    """A change point: the last night before it and the first after it."""

    series: Series
    change_point: ChangePoint

    @property
    def before(self) -> Night:
        return self.series.points[self.change_point.index - 1].night

    @property
    def after(self) -> Night:
        return self.series.points[self.change_point.index].night

    @property
    def bundles(self) -> tuple[str, str] | None:
        """The digests before and after; None where the bundle is the same."""
        pair = self.before.measured, self.after.measured
        return None if pair[0] == pair[1] else pair


def series_of(nights: Iterable[Night]) -> tuple[Series, ...]:
    """All series, each in the order of time. A night without a ratio, such as a failed one, is in none."""
    points: dict[tuple[str, str, str], list[Point]] = {}
    for night in sorted(nights, key=lambda night: night.time):
        for phase, ratio in night.against_reference.items():
            if night.reference is not None and ratio.log_ratios:
                points.setdefault((night.model, phase, night.reference), []).append(Point.of(night, ratio))
    return tuple(Series(*name, tuple(own)) for name, own in points.items())


def moves_of(series: Series) -> tuple[Move, ...]:
    """Where the series moved, in the order of time."""
    found = change_points([math.log(point.ratio) for point in series.points])
    return tuple(Move(series, one) for one in found)


def changed_between(before: Night, after: Night) -> tuple[str, ...]:
    """In words what differs between two nights' fingerprints; nothing where one failed before it took one."""
    if not (before.fingerprint and after.fingerprint):
        return ()
    found = changes(before.fingerprint, after.fingerprint)
    return tuple(f"{one.name}: {one.then or 'none'} -> {one.now or 'none'}" for one in found)
