"""All nights of one model, with what each says beside its figures. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from optimizer.history.series import Move, Series, changed_between, moves_of, series_of
from optimizer.nights.night import Night

_SHOWN = 12


@dataclass(frozen=True)
class History:
    """The nights of one model in the order of time, their series, and the moves of these."""

    model: str
    nights: tuple[Night, ...]
    series: tuple[Series, ...]
    moves: tuple[Move, ...]

    @property
    def phases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.phase for one in self.series))

    def notes(self) -> tuple[tuple[Night, tuple[str, ...]], ...]:
        """Each night, and in words what became another on it, the fingerprint's values included."""
        if not self.nights:
            return ()
        noted = [(after, tuple(_notes(before, after))) for before, after in pairwise(self.nights)]
        return ((self.nights[0], ()), *noted)


def histories_of(nights: Iterable[Night]) -> tuple[History, ...]:
    """By model, each model's nights in the order of time."""
    by_model: dict[str, list[Night]] = {}
    for night in sorted(nights, key=lambda night: (night.model, night.time)):
        by_model.setdefault(night.model, []).append(night)
    return tuple(_history(model, tuple(own)) for model, own in by_model.items())


def _history(model: str, nights: tuple[Night, ...]) -> History:
    series = series_of(nights)
    return History(model, nights, series, tuple(move for one in series for move in moves_of(one)))


def _notes(before: Night, after: Night) -> Iterator[str]:
    if before.measured != after.measured:
        yield f"bundle {after.measured[:_SHOWN]}"
    if None not in (before.reference, after.reference) and before.reference != after.reference:
        yield f"reference {str(after.reference)[:_SHOWN]}"
    yield from changed_between(before, after)
