"""A search whose score is a formula, and workers of it that are threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.shared_search import BANDS, latency_ms, score
from optimizer.records.holder import Holder
from optimizer.records.ledger import Ledger
from optimizer.search.precision import STAGE, PrecisionSearch, TrialScore
from optimizer.search.shared import Crew, SharedSearch
from optimizer.search.warm_start import Assignment
from optimizer.search.worker import TrialWorker

NAME = "toy"
SEED = 3


def alone(url: str) -> PrecisionSearch:
    return PrecisionSearch(Ledger(url, NAME), BANDS, latency_ms, lambda plan: score({g: s.name for g, s in _bands(plan)}), SEED)


def _bands(plan: dict) -> Iterator[tuple]:  # type: ignore[type-arg]
    group_of = {band.groups[0]: band.name for band in BANDS}
    return ((group_of[group], scheme) for group, scheme in plan.items())


def shared(url: str, said: list[str] | None = None) -> SharedSearch:
    ledger = Ledger(url, NAME)
    say = (said if said is not None else []).append
    return SharedSearch(Crew(ledger, Holder.here(), say, lambda: True), lambda _: None, ledger, BANDS, latency_ms, score, SEED)


@contextmanager
def workers(url: str, number: int, scoring: Callable[[Assignment], TrialScore] = score) -> Iterator[list[int]]:
    """So many, which end with the block; how many trials each has scored is in the list by then."""
    over, counts = threading.Event(), list[int]()

    def work() -> None:
        worker = TrialWorker(Ledger(url, NAME), STAGE, scoring, Holder.here(), lambda _: None)
        counts.append(worker.work(over.is_set, threading.Event()))

    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
