"""How many sequences or items are heard before a candidate is looked at, and how sure each look has to be.

A test that is looked at again and again errs more often than one that is looked at once. So the looks are few and stated
beforehand, and share one error: by the time that a part f of what may be heard has been heard, f squared of it is spent
(the power family of Kim and DeMets, Biometrika 74, 1987). Early looks, whose intervals rest on few sequences, must be all but
certain; the last one keeps most of what there is. Errors of looks are added up (Bonferroni), whatever their dependence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from optimizer.evaluation.gate import Verdict

ALPHA = 0.025
"""Probability at most with which a candidate that is over a limit passes it, at any look; likewise that one within fails."""


@dataclass(frozen=True)
class Look:
    """A look after `size` sequences or items in all, at intervals of confidence `level`, two-sided."""

    size: int
    level: float


def looks_between(first: int, most: int, alpha: float = ALPHA) -> tuple[Look, ...]:
    """Looks from about `first` to `most`, each at about twice as many as the one before; only the last where that is all.

    They err in a share of `alpha` to either side, all together.
    """
    num_steps = max(0, round(math.log2(most / first))) if most > first else 0
    looks, spent = [], 0.0
    for step in range(num_steps + 1):
        size = round(most * (first / most) ** (1 - step / num_steps)) if num_steps else most
        by_now = alpha * (size / most) ** 2
        looks.append(Look(size, 1 - 2 * (by_now - spent)))
        spent = by_now
    return tuple(looks)


class Judged(Protocol):
    """What was found at a look."""

    @property
    def verdict(self) -> Verdict: ...


Found = TypeVar("Found", bound=Judged)


def until_decided(looks: Iterable[Look], look_at: Callable[[Look], Found]) -> Found:
    """What is found at the first look whose verdict is not inconclusive, or at the last one. ValueError without looks."""
    found: Found | None = None
    for look in looks:
        found = look_at(look)
        if found.verdict.outcome != "inconclusive":
            break
    if found is None:
        raise ValueError("a candidate must be looked at, got no look")
    return found
