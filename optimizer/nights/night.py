"""result.json of one night: what changed, what was measured, what was decided. Data alone; `coldforge retune` writes it."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Literal

from pydantic import BaseModel, ConfigDict

from artifacts.manifest import Line, Sha256

Voided = Literal["codes", "accuracy", "times"]
Verdict = Literal["promoted", "kept", "regressed", "inconclusive", "failed"]

#: of the process; 2 is click's, for a command line that is wrong
EXIT_CODES: dict[Verdict, int] = {"promoted": 0, "failed": 1, "kept": 3, "regressed": 4, "inconclusive": 5}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Change(_Record):
    """One fingerprint that is another than the incumbent's, and the kinds of records that this makes void."""

    name: Line
    then: Line | None
    now: Line | None
    voids: tuple[Voided, ...]


class Ratio(_Record):
    """How much faster one bundle is than another, by blocks of a paired comparison in random order.

    A log ratio is ln(ms of the other / ms of this one) of one block: above 0 where this one is faster.
    """

    log_ratios: tuple[float, ...]

    @property
    def value(self) -> float:
        """As a factor: 1.03 is 3 % faster. The mean of the middle half: as deaf to outliers as the median, and less noisy."""
        ranked = sorted(self.log_ratios)
        cut = len(ranked) // 4
        return math.exp(fmean(ranked[cut : len(ranked) - cut]))


class Night(_Record):
    """`time` is UTC, as 2026-12-01T02:00:00Z. Bundles are named by their digests; `fingerprint` is of today."""

    format_version: Literal["1"] = "1"
    model: Line
    time: Line
    verdict: Verdict
    why: Line
    incumbent: Sha256
    candidate: Sha256 | None = None
    reference: Sha256 | None = None
    fingerprint: dict[str, str]
    changes: tuple[Change, ...] = ()
    proof: Line | None = None
    """Whether the incumbent's proof gave the same bits again, or why not."""
    records_reused: int = 0
    records_void: int = 0
    against_reference: dict[str, Ratio] = {}
    """The incumbent's speed, or the candidate's where it was promoted, against the frozen reference: by "workload" (all of a
    request's tokens), "decode", "prefill"."""
    against_incumbent: dict[str, Ratio] = {}
    """The candidate's speed."""
    noise: dict[str, Ratio] = {}
    """The incumbent against itself, on this night."""
    accuracy: dict[str, str] = {}
    """Check of the gate -> what came of it, in words."""

    @property
    def measured(self) -> str:
        """The digest of the bundle that `against_reference` is of."""
        return self.candidate if self.verdict == "promoted" and self.candidate is not None else self.incumbent
