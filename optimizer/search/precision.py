"""Stage two: which scheme for which band of layers, and which KV cache, as a constrained two-objective Optuna study."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import FrameType

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from artifacts.precision import KvDtype, Plan
from optimizer.records.ledger import Direction, Ledger, completed
from optimizer.records.progress import Reporter
from optimizer.search.bands import Band, plan_of
from optimizer.search.warm_start import KV_CACHE, Assignment, kv_dtype_of

STAGE = "precision"
DIRECTIONS: tuple[Direction, Direction] = ("minimize", "minimize")  # latency, KL
_GATE, _FAILURE, _HOPELESS = "gate", "failure", "hopeless"


@dataclass(frozen=True)
class TrialScore:
    """Mean KL in nats, and by what part of its limit the worst gated metric misses (0 or less: within the gate).

    `failure` says why a plan has none; `is_hopeless` that no more text would bring it within the gate.
    """

    kl: float
    violation: float
    failure: str = ""
    is_hopeless: bool = False

    @classmethod
    def refused(cls, why: str) -> TrialScore:
        """Of a plan that cannot be had, further from the gate than any that can; finite, as samplers need it."""
        return cls(1e6, 1e6, why, is_hopeless=True)


@dataclass(frozen=True)
class Trial:
    """A finished trial. `latency_ms` is the cost provider's time per output token; `failure` says why it has no score."""

    number: int
    choice: Assignment
    latency_ms: float
    kl: float
    violation: float
    failure: str = ""
    is_hopeless: bool = False

    @property
    def is_feasible(self) -> bool:
        return self.violation <= 0


class PrecisionSearch:
    """Finds plans on the front of latency against KL: warm starts first, then neighbours of the front and TPE in turn.

    `latency_ms` and `score` take a plan and, where `kv_dtypes` are given, one of them: a variable beside the bands.
    Trials are numbered by completion, and the sampler of trial n is seeded by n: a study that was killed goes on exactly as
    if it had not been. `study` names what all trials have in common.
    """

    def __init__(
        self,
        ledger: Ledger,
        bands: Sequence[Band],
        latency_ms: Callable[..., float],
        score: Callable[..., TrialScore],
        seed: int,
        kv_dtypes: Sequence[KvDtype] = (),
        study: str = STAGE,
    ) -> None:
        self._ledger = ledger
        self._bands = bands
        self._latency_ms = latency_ms
        self._score = score
        self._seed = seed
        self._study_key = study
        self._values: dict[str, Sequence[str]] = {band.name: [scheme.name for scheme in band.choices] for band in bands}
        if kv_dtypes:
            self._values[KV_CACHE] = kv_dtypes
        self._space: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(values) for name, values in self._values.items()
        }

    def trials(self) -> list[Trial]:
        """Every finished trial, in order."""
        return [_trial(number, frozen) for number, frozen in enumerate(completed(self._study))]

    def adopt(self, trials: Sequence[Trial]) -> None:
        """Take over finished trials of an earlier run of the same study, in their order, behind those that are known."""
        for trial in trials[len(self.trials()) :]:
            self._record(trial)

    def run(
        self, warm_starts: Sequence[Assignment], num_trials: int, timeout_s: float | None, reporter: Reporter
    ) -> list[Trial]:
        """Go on until `num_trials` are finished, counting those of earlier runs, or `timeout_s` has passed, or Ctrl-C."""
        done = self.trials()
        if len(done) < num_trials:
            with interruptible(reporter) as interrupted:
                steps = self._steps(warm_starts, num_trials, timeout_s, interrupted)
                title = f"precision search ({len(done)} known)"
                for _ in reporter.track(steps, title, num_trials - len(done), timeout_s):
                    pass
        return self.trials()

    def _steps(
        self, warm_starts: Sequence[Assignment], num_trials: int, timeout_s: float | None, interrupted: threading.Event
    ) -> Iterator[None]:
        begin = time.monotonic()
        while not interrupted.is_set() and (timeout_s is None or time.monotonic() - begin < timeout_s):
            done = self.trials()
            if len(done) >= num_trials:
                return
            choice = self._next(warm_starts, done)
            if choice is None:
                return  # nothing new is left to try
            chosen = self._chosen(choice)
            latency_ms, score = self._latency_ms(*chosen), self._score(*chosen)
            # Only finished trials enter the storage: a process that is killed leaves nothing half-done behind.
            self._study.add_trial(self._frozen(choice, latency_ms, score))
            yield

    def _record(self, trial: Trial) -> None:
        score = TrialScore(trial.kl, trial.violation, trial.failure, trial.is_hopeless)
        self._study.add_trial(self._frozen(trial.choice, trial.latency_ms, score))

    def _chosen(self, choice: Assignment) -> tuple[Plan] | tuple[Plan, KvDtype]:
        """What `choice` stands for, as the callbacks take it."""
        plan = plan_of(self._bands, choice)
        return (plan, kv_dtype_of(choice)) if KV_CACHE in self._values else (plan,)

    def _next(
        self, warm_starts: Sequence[Assignment], done: Sequence[Trial], running: Sequence[Assignment] = ()
    ) -> Assignment | None:
        """What to try now, beside `running`: a warm start, then in turn an untried neighbour of the front and TPE's next plan,
        or the other where one has nothing new. None where nothing new is left."""
        known = [*(trial.choice for trial in done), *running]
        if (warm_start := next((choice for choice in warm_starts if choice not in known), None)) is not None:
            return warm_start
        neighbour = self._untried_neighbour(done, known)
        if neighbour is not None and len(known) % 2 == 0:
            return neighbour
        sampled = self._sampled(done, running)
        return neighbour if sampled in known else sampled

    def _sampled(self, done: Sequence[Trial], running: Sequence[Assignment]) -> Assignment:
        sampler = optuna.samplers.TPESampler(seed=self._seed + len(done) + len(running), multivariate=True, n_startup_trials=0)
        study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
        study.add_trials([self._frozen(t.choice, t.latency_ms, TrialScore(t.kl, t.violation)) for t in done])
        # The sampler keeps away from plans that are being scored.
        for choice in running:
            study.add_trial(create_trial(state=TrialState.RUNNING, params=dict(choice), distributions=self._space))
        return {name: str(value) for name, value in study.ask(self._space).params.items()}

    def _untried_neighbour(self, done: Sequence[Trial], known: Sequence[Assignment]) -> Assignment | None:
        """A choice that differs in one variable from one on the front and is faster: latency is known before it is scored."""
        if not done:
            return None
        random_order = random.Random(self._seed + len(known))
        for trial in pareto_front(done) or [min(done, key=lambda trial: trial.violation)]:
            neighbours = [trial.choice | {name: value} for name, values in self._values.items() for value in values]
            random_order.shuffle(neighbours)
            for choice in neighbours:
                if choice not in known and self._latency_ms(*self._chosen(choice)) < trial.latency_ms:
                    return choice
        return None

    def _frozen(self, choice: Assignment, latency_ms: float, score: TrialScore) -> FrozenTrial:
        return create_trial(
            params=dict(choice),
            distributions=self._space,
            values=[latency_ms, score.kl],
            constraints={_GATE: score.violation},
            user_attrs={_FAILURE: score.failure, _HOPELESS: score.is_hopeless},
        )

    @cached_property
    def _study(self) -> optuna.Study:
        return self._ledger.study(self._study_key, DIRECTIONS)


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Feasible trials that no other feasible one beats or equals in both objectives, fastest first."""
    front: list[Trial] = []
    for trial in sorted((t for t in trials if t.is_feasible), key=lambda t: (t.latency_ms, t.kl, t.number)):
        if not front or trial.kl < front[-1].kl:
            front.append(trial)
    return front


def _trial(number: int, frozen: FrozenTrial) -> Trial:
    latency_ms, kl = frozen.values
    failure, is_hopeless = frozen.user_attrs[_FAILURE], frozen.user_attrs[_HOPELESS]
    return Trial(number, dict(frozen.params), latency_ms, kl, frozen.constraints[_GATE], failure, is_hopeless)


@contextmanager
def interruptible(
    reporter: Reporter, told: str = "stopping after this trial, then choosing from the trials so far"
) -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into a request to stop after the running trial; the second one interrupts as usual."""
    interrupted = threading.Event()

    def ask_to_stop(signum: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        reporter.say(f"{told}; Ctrl-C again quits at once")

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, ask_to_stop)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
