"""One search, several workers: the same trials as without where there is one, and who is killed loses one alone."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from benchmarks.shared_search import BANDS, score
from optimizer.records.holder import Holder
from optimizer.records.lease import Lease
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.search.precision import STAGE, TrialScore
from optimizer.search.shared import WORKERS
from optimizer.search.warm_start import Assignment, uniform_choices
from tests.optimizer.workers.toy import NAME, alone, shared, workers
from tests.postgresql import PostgreSQL
from tests.waiting import wait_for

WARM_STARTS = uniform_choices(BANDS)


@pytest.fixture
def url(server: PostgreSQL) -> str:
    """Of an empty database."""
    return server.url_of(server.create())


def test_with_one_worker_the_trials_are_those_of_a_search_alone(url: str, tmp_path: Path) -> None:
    expected = alone(f"sqlite:///{tmp_path}/alone.db").run(WARM_STARTS, 9, None, Reporter())
    with workers(url, 1):
        first = shared(url).run(WARM_STARTS, 6, None, Reporter())
        assert first == expected[:6]
        assert shared(url).run(WARM_STARTS, 9, None, Reporter()) == expected, "and it goes on as if it had not stopped"
    assert alone(url).run(WARM_STARTS, 9, None, Reporter()) == expected


def test_three_workers_try_each_plan_once(url: str) -> None:
    def slow(choice: Assignment) -> TrialScore:
        time.sleep(0.05)
        return score(choice)

    with workers(url, 3, slow) as counts:
        trials = shared(url).run(WARM_STARTS, 14, None, Reporter())
    assert len(trials) == sum(counts) == 14 and min(counts) > 0
    assert len({tuple(sorted(trial.choice.items())) for trial in trials}) == 14
    assert all(score(trial.choice) == TrialScore(trial.kl, trial.violation) for trial in trials)
    assert [trial.number for trial in trials] == list(range(14))


@pytest.mark.usefixtures("brief_leases")
def test_a_worker_that_falls_silent_loses_its_trial_alone(url: str) -> None:
    said = list[str]()
    dead = Lease(Ledger(url, NAME), WORKERS, Holder(1, "gone", "2026-01-01T00:00:00Z"))
    dead._ended.set()  # as if its process had been killed
    with workers(url, 1):
        trials = shared(url, said).run(WARM_STARTS, 8, None, Reporter())
    assert len(trials) == 8 and WARM_STARTS[0] in [trial.choice for trial in trials]
    assert "worker 0 is gone: a trial that it had is given to another" in said
    errands = Ledger(url, NAME).study(f"{STAGE}/errands").trials
    assert [trial.user_attrs["errand"]["worker"] for trial in errands if trial.state == TrialState.FAIL] == [dead.number]


@pytest.mark.usefixtures("brief_leases")
def test_a_worker_that_was_stopped_for_a_while_loses_its_trial_and_takes_another_place(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewal, goes_on = Lease._renew, threading.Event()

    def renew(lease: Lease) -> None:
        goes_on.wait(60)  # a process that is stopped renews nothing
        renewal(lease)

    def states() -> list[TrialState]:
        return [trial.state for trial in Ledger(url, NAME).study(f"{STAGE}/errands").trials]

    def slow_at_first(choice: Assignment) -> TrialScore:
        if not goes_on.is_set():
            wait_for(lambda: states() == [TrialState.FAIL])
            monkeypatch.setattr(Lease, "_renew", renewal)
            goes_on.set()
        return score(choice)

    monkeypatch.setattr(Lease, "_renew", renew)
    with workers(url, 1, slow_at_first) as counts:
        trials = shared(url).run(WARM_STARTS, 3, None, Reporter())
    assert len(trials) == sum(counts) == 3
    assert states() == [TrialState.FAIL] + 3 * [TrialState.COMPLETE], "an answer to what was given to another does not count"
