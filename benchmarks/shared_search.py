"""How near the throughput of N workers on one storage comes to N times that of one.

    python -m benchmarks.shared_search --storage postgresql+psycopg://USER:PASSWORD@HOST/DATABASE

Trials are simulated: each takes --seconds, during which its worker sleeps. So what is measured is what sharing costs: asking,
the storage, waiting for each other. Ideal is N trials in that time, from when all workers are there. Processes of Python start
beforehand; workers that end early would end the measurement.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from uuid import uuid4

from artifacts.precision import Plan, Scheme
from optimizer.records.holder import Holder
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.search.bands import Band, plan_of
from optimizer.search.precision import STAGE, Trial, TrialScore
from optimizer.search.shared import Crew, SharedSearch
from optimizer.search.warm_start import Assignment, uniform_choices
from optimizer.search.worker import TrialWorker

#: a model whose optimum is known: four schemes for each of twelve bands, as many variables as a dense model has
COST_MS = {"fp32": 4.0, "int8": 2.0, "int4-g32-asym": 1.2, "int4-g64-sym": 1.0}
LOSS = {"fp32": 0.0, "int8": 0.001, "int4-g32-asym": 0.01, "int4-g64-sym": 0.05}
BANDS = tuple(Band(f"band{i}", (f"group{i}",), tuple(map(Scheme.parse, COST_MS))) for i in range(12))
MAX_KL = 0.3


def latency_ms(plan: Plan) -> float:
    return sum(COST_MS[scheme.name] for scheme in plan.values())


def score(choice: Assignment) -> TrialScore:
    kl = sum(LOSS[scheme.name] * (1 + i) / 4 for i, scheme in enumerate(plan_of(BANDS, choice).values()))
    return TrialScore(kl, kl / MAX_KL - 1)


class Searching:
    """A search over `storage` of a name that no other has; `crew` fills as `start_worker`'s processes begin."""

    def __init__(self, storage: str, seconds: float, name: str = "") -> None:
        self.storage, self.seconds, self.name = storage, seconds, name or f"simulated-{uuid4().hex[:8]}"
        self.ledger = Ledger(storage, self.name, lambda text: print(text, file=sys.stderr))
        self.crew = Crew(self.ledger, Holder.here(), lambda text: print(text, file=sys.stderr), lambda: True)
        self.search = SharedSearch(self.crew, lambda _: None, self.ledger, BANDS, latency_ms, score, 0)

    def start_worker(self) -> subprocess.Popen[bytes]:
        """A process that scores trials until it is killed."""
        options = ["--storage", self.storage, "--seconds", str(self.seconds), "--work-for", self.name]
        return subprocess.Popen([sys.executable, "-m", "benchmarks.shared_search", *options])

    def wait_for(self, num_workers: int, timeout_s: float = 60.0) -> None:
        """Returns once so many are there."""
        deadline_s = time.monotonic() + timeout_s
        while len(self.crew.living()) < num_workers:
            assert time.monotonic() < deadline_s, f"{num_workers} workers did not begin within {timeout_s:.0f} s"
            time.sleep(0.1)

    def run(self, num_trials: int) -> tuple[list[Trial], float]:
        """The trials, and the seconds that they took."""
        began_s = time.monotonic()
        trials = self.search.run(uniform_choices(BANDS), num_trials, None, Reporter())
        return trials, time.monotonic() - began_s


def work(storage: str, name: str, seconds: float) -> None:
    """Score trials of the search `name` until this process is killed."""

    def slow(choice: Assignment) -> TrialScore:
        time.sleep(seconds)
        return score(choice)

    ledger = Ledger(storage, name, lambda text: print(text, file=sys.stderr))
    TrialWorker(ledger, STAGE, slow, Holder.here(), print).work(lambda: False, threading.Event())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", required=True, help="URL of an Optuna storage")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=1.0, help="that a trial takes")
    parser.add_argument("--work-for", metavar="NAME", help="be a worker of that search")
    arguments = parser.parse_args()
    if arguments.work_for:
        work(arguments.storage, arguments.work_for, arguments.seconds)
        return
    searching = Searching(arguments.storage, arguments.seconds)
    workers = [searching.start_worker() for _ in range(arguments.workers)]
    try:
        searching.wait_for(arguments.workers)
        trials, took_s = searching.run(arguments.trials)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    ideal_s = -(-arguments.trials // arguments.workers) * arguments.seconds
    print(json.dumps({"trials": len(trials), "workers": arguments.workers, "took_s": took_s, "of_ideal": ideal_s / took_s}))


if __name__ == "__main__":
    main()
