"""Verdicts in words. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from optimizer.nights.night import Night, Ratio, Verdict


def judged(night: Night, verdict: Verdict, why: str) -> Night:
    """`night` with its verdict; `why` becomes one line."""
    line = "".join(character if character.isprintable() else " " for character in why)
    return night.model_copy(update={"verdict": verdict, "why": " ".join(line.split())})


def stays(night: Night, ails: Sequence[str], why: str) -> Night:
    """The incumbent is kept or, where it ails, has regressed with nothing to take its place."""
    return judged(night, "regressed" if ails else "kept", "; ".join([*ails, why]))


def cannot_tell(night: Night, ails: Sequence[str], why: str) -> Night:
    """The candidate may be better, and that is not shown; the incumbent may ail all the same."""
    return judged(night, "regressed" if ails else "inconclusive", "; ".join([*ails, why]))


def spread_of(ratio: Ratio) -> float:
    """By what fraction a block typically differs from 1."""
    return math.expm1(median(abs(log) for log in ratio.log_ratios))
