"""What a report shows, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optimizer.evaluation import Comparison, Estimate, Evaluation, Verdict


@dataclass(frozen=True)
class Headline:
    """The numbers that matter, on the chosen plan as it is served.

    `speedup` is single-stream decode against the unquantized model on the same runtime, with its 95 % interval;
    the two latencies are milliseconds per output token.
    """

    speedup: Estimate
    baseline_ms: float
    chosen_ms: float
    size_bytes: int
    baseline_size_bytes: int
    measured: bool = True
    """Whether the device was there; otherwise all times of the report are modelled, and accuracy is emulated."""


@dataclass(frozen=True)
class TrialPoint:
    """A trial of the precision search. `kl` is its mean in nats per token, finite; `summary` says what was tried, in a line."""

    number: int
    summary: str
    latency_ms: float
    kl: float
    feasible: bool
    on_front: bool


@dataclass(frozen=True)
class SetAccuracy:
    """The chosen plan over one evaluation set, the gate's verdict on it, and why no more of it was heard."""

    set_name: str
    evaluation: Evaluation
    verdict: Verdict
    stopped: str


@dataclass(frozen=True)
class SetItems:
    """The chosen plan and the unquantized model on one set of items."""

    set_name: str
    comparison: Comparison


@dataclass(frozen=True)
class KernelWinner:
    """The constants that a kernel was frozen with.

    `ms` is per output token of the workload, whole steps, summed over the plans measured; `runner_up_margin` is how much
    slower the next best was, a fraction.
    """

    name: str
    constants: Mapping[str, int]
    num_candidates: int
    ms: float
    runner_up_margin: float | None = None


@dataclass(frozen=True)
class StepLatency:
    """Measured time of one engine step of `num_tokens` tokens over sequences of `context_tokens`."""

    num_tokens: int
    context_tokens: int
    ms: float


@dataclass(frozen=True)
class ReportData:
    """A report. Empty sequences and mappings leave their sections out; the headline's KL is the first set's.

    `plan` is layer group -> scheme name, in the architecture's order; `sensitivities` is group -> scheme name -> KL in
    nats of quantizing that group alone. `serving` and `provenance` are shown as they are, in their order.
    """

    name: str
    target: str
    model: str
    headline: Headline
    accuracy: Sequence[SetAccuracy]
    plan: Mapping[str, str]
    items: Sequence[SetItems] = ()
    trials: Sequence[TrialPoint] = ()
    chosen_trial: int | None = None
    sensitivities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    kernels: Sequence[KernelWinner] = ()
    step_latencies: Sequence[StepLatency] = ()
    serving: Mapping[str, str | int | float] = field(default_factory=dict)
    provenance: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every set's verdict passed."""
        verdicts = [accuracy.verdict for accuracy in self.accuracy] + [one.comparison.verdict for one in self.items]
        return all(verdict.passed for verdict in verdicts)
