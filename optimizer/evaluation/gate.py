"""The accuracy gate: limits on the unfavourable end of each metric's interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from optimizer.evaluation.confidence import Estimate
from optimizer.evaluation.evaluation import Evaluation

Metric = Literal["kl", "perplexity_increase", "top1_agreement"]


@dataclass(frozen=True)
class Check:
    """One limit and how a candidate met it."""

    metric: Metric
    estimate: Estimate
    limit: float

    @property
    def bound(self) -> float:
        """The end of the interval that the limit is held against: the low one for an agreement, else the high one."""
        return self.estimate.low if self.metric == "top1_agreement" else self.estimate.high

    @property
    def margin(self) -> float:
        """Room left to the limit, in the metric's unit; negative by how much it was missed."""
        return self.bound - self.limit if self.metric == "top1_agreement" else self.limit - self.bound

    @property
    def passed(self) -> bool:
        return self.margin >= 0

    @property
    def violation(self) -> float:
        """By what part of its limit the bound misses it, 0 or less within; of an agreement, of the disagreement allowed.

        Absolute where the limit allows nothing; infinite for a metric that is not a number.
        """
        allowed = 1 - self.limit if self.metric == "top1_agreement" else self.limit
        return math.inf if math.isnan(self.margin) else -self.margin / (allowed or 1.0)

    def __str__(self) -> str:
        most = "at least" if self.metric == "top1_agreement" else "at most"
        result = "passes with" if self.passed else "missed by"
        return (
            f"{self.metric} {self.estimate.value:.4g} ({self.estimate.low:.4g} to {self.estimate.high:.4g}) "
            f"must be {most} {self.limit:.4g} at {self.bound:.4g}: {result} {abs(self.margin):.2g}"
        )


@dataclass(frozen=True)
class Verdict:
    """Every limit of a gate, checked. A gate without limits passes everything."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def violation(self) -> float:
        """The worst check's; 0 or less when all passed."""
        return max((check.violation for check in self.checks), default=0.0)

    def shortfall(self) -> str:
        """The checks that failed and by how much, one a line; empty when all passed."""
        return "\n".join(str(check) for check in self.checks if not check.passed)


@dataclass(frozen=True)
class Gate:
    """Limits that a candidate must keep; None sets none. Fractions, not percentages; KL in nats per token."""

    max_kl: float | None = None
    max_perplexity_increase: float | None = None
    min_top1_agreement: float | None = None

    def judge(self, evaluation: Evaluation) -> Verdict:
        """Hold each limit against the unfavourable end of the metric's 95 % interval."""
        limits: tuple[tuple[Metric, Estimate, float | None], ...] = (
            ("kl", evaluation.kl, self.max_kl),
            ("perplexity_increase", evaluation.perplexity_increase, self.max_perplexity_increase),
            ("top1_agreement", evaluation.top1_agreement, self.min_top1_agreement),
        )
        return Verdict(tuple(Check(metric, value, limit) for metric, value, limit in limits if limit is not None))
