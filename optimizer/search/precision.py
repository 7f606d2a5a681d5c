"""Stage two: which scheme for which band of layers, as a constrained two-objective Optuna study."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, create_trial

from artifacts.precision import Scheme
from optimizer.ledger import Ledger, completed
from optimizer.progress import Reporter
from optimizer.search.bands import Band, plan_of
from optimizer.search.warm_start import Choice

STAGE = "precision"
_GATE = "gate"

Plan = Mapping[str, Scheme]


@dataclass(frozen=True)
class TrialScore:
    """Mean KL in nats, and by what part of its limit the worst gated metric misses (0 or less: within the gate)."""

    kl: float
    violation: float


@dataclass(frozen=True)
class Trial:
    """A finished trial. `latency_ms` is the cost provider's time per output token."""

    number: int
    choice: Choice
    latency_ms: float
    kl: float
    violation: float

    @property
    def is_feasible(self) -> bool:
        return self.violation <= 0


class PrecisionSearch:
    """Finds plans on the front of latency against KL. Warm starts first, then multi-objective TPE within the gate.

    Trials are numbered by completion, and the sampler of trial n is seeded by n: a study that was killed goes on exactly as
    if it had not been.
    """

    def __init__(
        self,
        ledger: Ledger,
        bands: Sequence[Band],
        latency_ms: Callable[[Plan], float],
        score: Callable[[Plan], TrialScore],
        seed: int,
    ) -> None:
        self._ledger = ledger
        self._bands = bands
        self._latency_ms = latency_ms
        self._score = score
        self._seed = seed
        self._space: dict[str, BaseDistribution] = {
            band.name: CategoricalDistribution([scheme.name for scheme in band.choices]) for band in bands
        }

    def trials(self) -> list[Trial]:
        """Every finished trial, in order."""
        return [_trial(number, frozen) for number, frozen in enumerate(completed(self._study()))]

    def run(self, warm_starts: Sequence[Choice], num_trials: int, timeout_s: float | None, reporter: Reporter) -> list[Trial]:
        """Go on until `num_trials` are finished, counting those of earlier runs, or `timeout_s` has passed, or Ctrl-C."""
        done = self.trials()
        if len(done) < num_trials:
            with _interruptible(reporter) as interrupted:
                steps = self._steps(warm_starts, num_trials, timeout_s, interrupted)
                for _ in reporter.track(steps, f"precision search ({len(done)} known)", num_trials - len(done)):
                    pass
        return self.trials()

    def _steps(
        self, warm_starts: Sequence[Choice], num_trials: int, timeout_s: float | None, interrupted: threading.Event
    ) -> Iterator[None]:
        begin = time.monotonic()
        while not interrupted.is_set() and (timeout_s is None or time.monotonic() - begin < timeout_s):
            done = self.trials()
            if len(done) >= num_trials:
                return
            known = [trial.choice for trial in done]
            untried = next((choice for choice in warm_starts if choice not in known), None)
            if untried is not None:
                self._try(untried, done)
            else:
                self._sample(done)
            yield

    def _try(self, choice: Choice, done: Sequence[Trial]) -> None:
        latency_ms, score = self._evaluate(choice, done)
        self._study().add_trial(
            create_trial(
                params=dict(choice),
                distributions=self._space,
                values=[latency_ms, score.kl],
                constraints={_GATE: score.violation},
            )
        )

    def _sample(self, done: Sequence[Trial]) -> None:
        sampler = optuna.samplers.TPESampler(seed=self._seed + len(done), multivariate=True, n_startup_trials=0)
        study = self._study(sampler)
        trial = study.ask(self._space)
        latency_ms, score = self._evaluate({name: trial.params[name] for name in self._space}, done)
        trial.set_constraint(_GATE, score.violation)
        study.tell(trial, [latency_ms, score.kl])

    def _evaluate(self, choice: Choice, done: Sequence[Trial]) -> tuple[float, TrialScore]:
        for trial in done:
            if trial.choice == choice:  # evaluation is deterministic: a plan is never scored twice
                return trial.latency_ms, TrialScore(trial.kl, trial.violation)
        plan = plan_of(self._bands, choice)
        return self._latency_ms(plan), self._score(plan)

    def _study(self, sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
        return self._ledger.study(STAGE, ("minimize", "minimize"), sampler)


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Feasible trials that no other feasible one beats or equals in both objectives, fastest first."""
    front: list[Trial] = []
    for trial in sorted((t for t in trials if t.is_feasible), key=lambda t: (t.latency_ms, t.kl, t.number)):
        if not front or trial.kl < front[-1].kl:
            front.append(trial)
    return front


def _trial(number: int, frozen: FrozenTrial) -> Trial:
    latency_ms, kl = frozen.values
    return Trial(number, dict(frozen.params), latency_ms, kl, frozen.constraints[_GATE])


@contextmanager
def _interruptible(reporter: Reporter) -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into a request to stop after the running trial; the second one interrupts as usual."""
    interrupted = threading.Event()

    def ask_to_stop(signum: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        reporter.say("stopping after this trial, then choosing from what there is; Ctrl-C again to quit at once")

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, ask_to_stop)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
