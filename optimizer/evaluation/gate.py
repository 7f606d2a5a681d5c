"""The accuracy gate: limits on text and non-inferiority on items, the worse end of each interval must meet the limit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from optimizer.evaluation.confidence import Estimate
from optimizer.evaluation.evaluation import Evaluation
from optimizer.evaluation.paired import Paired

Metric = Literal["kl", "perplexity_increase", "top1_agreement"]
Outcome = Literal["pass", "fail", "inconclusive"]


class Checked(Protocol):
    """One condition of the gate and how a candidate met it. Its string says it in a line, and what to do if it did not."""

    @property
    def outcome(self) -> Outcome: ...

    @property
    def violation(self) -> float:
        """By what part of what is allowed it is missed; 0 or less within."""
        ...


@dataclass(frozen=True)
class Check:
    """One limit and how a candidate met it on `num_sequences`."""

    metric: Metric
    estimate: Estimate
    limit: float
    num_sequences: int

    @property
    def bound(self) -> float:
        """The worse end of the interval, which must meet the limit: the low one for an agreement, else the high one."""
        return self.estimate.low if self.metric == "top1_agreement" else self.estimate.high

    @property
    def margin(self) -> float:
        """Room left to the limit, in the metric's unit; negative by how much it was missed."""
        return self.bound - self.limit if self.metric == "top1_agreement" else self.limit - self.bound

    @property
    def passed(self) -> bool:
        return self.margin >= 0

    @property
    def outcome(self) -> Outcome:
        """Whether the interval excludes the limit, and on which side; what is not a number fails."""
        if self.passed:
            return "pass"
        return "fail" if self.is_hopeless or math.isnan(self.margin) else "inconclusive"

    @property
    def is_hopeless(self) -> bool:
        """Whether the whole interval misses the limit, so that more text would hardly pass it."""
        estimate = self.estimate
        return estimate.high < self.limit if self.metric == "top1_agreement" else estimate.low > self.limit

    @property
    def advice(self) -> str:
        """What to do about a limit that the interval contains; empty for any other."""
        if self.outcome != "inconclusive":
            return ""
        room = abs(self.limit - self.estimate.value)
        is_beyond = (self.estimate.value < self.limit) == (self.metric == "top1_agreement")
        if is_beyond or not room:
            return ", undecided; the value itself is beyond the limit: on more text it would probably fail"
        needed = math.ceil(self.num_sequences * ((self.bound - self.estimate.value) / room) ** 2)
        return f", undecided; about {needed} sequences would show it: raise evaluation.max_sequences, or the limit"

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
            f"must be {most} {self.limit:.4g} at {self.bound:.4g}: {result} {abs(self.margin):.2g}{self.advice}"
        )


@dataclass(frozen=True)
class NonInferiority:
    """That a candidate scores at most `margin` below its baseline on a set of items, which the interval must show."""

    metric: str
    paired: Paired
    margin: float
    is_stopped: bool = False
    """Whether the sequential test ended the candidate before its last item: a fail, whatever the interval says by then."""

    @property
    def outcome(self) -> Outcome:
        if self.is_stopped or self.paired.difference.high < -self.margin:
            return "fail"
        return "pass" if self.paired.difference.low >= -self.margin else "inconclusive"

    @property
    def violation(self) -> float:
        return (-self.margin - self.paired.difference.low) / self.margin

    @property
    def advice(self) -> str:
        """What to do about a set that is not passed; empty for one that is."""
        if self.outcome == "pass":
            return ""
        if self.outcome == "fail":
            return "ended early, as hopeless" if self.is_stopped else "the interval excludes the margin"
        needed = self.paired.items_needed(self.margin)
        if needed is None:
            return "inconclusive, and the score itself is beyond the margin: with more items it would probably fail"
        more = needed - self.paired.num_items
        return f"inconclusive: needs about {more} more items at this rate of disagreement; raise max_items, or the margin"

    def __str__(self) -> str:
        paired, difference = self.paired, self.paired.difference
        return (
            f"{self.metric} {paired.candidate:.2%} against {paired.baseline:.2%} on {paired.num_items} items, difference "
            f"{difference.value:+.2%} ({difference.low:+.2%} to {difference.high:+.2%}) must be at least {-self.margin:.2%} at "
            f"{difference.low:+.2%}: {self.advice or 'passes'}"
        )


@dataclass(frozen=True)
class Fidelity:
    """That every item is right: for what does not depend on chance."""

    metric: str
    num_items: int
    wrong: tuple[str, ...]
    """What was wrong with each item that is not right, in a line."""

    @property
    def outcome(self) -> Outcome:
        return "fail" if self.wrong else "pass"

    @property
    def violation(self) -> float:
        return len(self.wrong) / self.num_items

    def __str__(self) -> str:
        right = f"{self.metric}: {self.num_items - len(self.wrong)} of {self.num_items} items are right"
        return "; ".join((f"{right}, all must be", *self.wrong[:3])) if self.wrong else right


@dataclass(frozen=True)
class Verdict:
    """Every condition of a gate on one set, checked. A gate without conditions passes everything."""

    checks: tuple[Checked, ...]

    @property
    def passed(self) -> bool:
        return self.outcome == "pass"

    @property
    def outcome(self) -> Outcome:
        """A fail if any check fails; what is inconclusive does not pass either."""
        outcomes = {check.outcome for check in self.checks}
        return "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"

    @property
    def violation(self) -> float:
        """The worst check's; 0 or less when all passed."""
        return max((check.violation for check in self.checks), default=0.0)

    def shortfall(self) -> str:
        """The checks that were not passed and by how much, one a line; empty when all were."""
        return "\n".join(str(check) for check in self.checks if check.outcome != "pass")


@dataclass(frozen=True)
class Gate:
    """Limits that a candidate must keep; None sets none. Fractions, not percentages; KL in nats per token."""

    max_kl: float | None = None
    max_perplexity_increase: float | None = None
    min_top1_agreement: float | None = None

    def with_margin(self, margin: float | None) -> Gate:
        """The same with a limit on the perplexity increase that is at most `margin`; None changes nothing."""
        limits = [limit for limit in (margin, self.max_perplexity_increase) if limit is not None]
        return replace(self, max_perplexity_increase=min(limits, default=None))

    def judge(self, evaluation: Evaluation) -> Verdict:
        """A check for each limit: the worse end of the metric's interval must meet it."""
        return Verdict(self._checks(evaluation))

    def is_hopeless(self, evaluation: Evaluation) -> bool:
        """Whether the favourable end of an interval misses its limit, too."""
        return any(check.is_hopeless for check in self._checks(evaluation))

    def _checks(self, evaluation: Evaluation) -> tuple[Check, ...]:
        limits: tuple[tuple[Metric, Estimate, float | None], ...] = (
            ("kl", evaluation.kl, self.max_kl),
            ("perplexity_increase", evaluation.perplexity_increase, self.max_perplexity_increase),
            ("top1_agreement", evaluation.top1_agreement, self.min_top1_agreement),
        )
        num_sequences = evaluation.num_sequences
        return tuple(Check(metric, value, limit, num_sequences) for metric, value, limit in limits if limit is not None)
