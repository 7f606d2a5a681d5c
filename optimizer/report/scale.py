"""Axes: values to fractions of a plot, and the ticks between."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_LOG_FROM_RATIO = 6.0
"""A span of less than this factor is read better on a linear axis."""


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to [0, 1]."""

    low: float
    high: float
    is_log: bool

    @classmethod
    def around(cls, values: Iterable[float], *, margin: float = 0.06) -> Scale:
        """A scale that holds `values` with some room: logarithmic where they are positive and far apart."""
        values = list(values)
        low, high = min(values), max(values)
        if low > 0 and high / low >= _LOG_FROM_RATIO:
            room = (high / low) ** margin
            return cls(low / room, high * room, True)
        room = (high - low) * margin or abs(high) * margin or 1.0
        return cls(low - room, high + room, False)

    def position(self, value: float) -> float:
        """Where `value` lies, 0 at low and 1 at high; values beyond are put on the edge."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values inside the scale: 1, 2, 5 of each decade on a log axis (powers of ten where there are many)."""
        if self.is_log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1,) if len(decades) > 4 else (1, 2, 5)
            ticks = [step * 10.0**decade for decade in decades for step in steps]
        else:
            raw = (self.high - self.low) / 5
            decade = 10.0 ** math.floor(math.log10(raw))
            step = next(m * decade for m in (1, 2, 2.5, 5, 10) if m * decade >= raw * 0.999)
            ticks = [step * i for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [tick for tick in ticks if self.low <= tick <= self.high]
