"""A study's storage that another process holds, that fills up, breaks or belongs to somebody else."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial
from sqlalchemy import event
from sqlalchemy.engine import Engine

from artifacts.reader import verify_bundle
from optimizer.records.ledger import Ledger, completed
from optimizer.records.patient_storage import StorageUnavailable
from tests.optimizer.conftest import NUM_TRIALS, MakeProject, num_trials
from tests.optimizer.test_optimize import start
from tests.waiting import wait_for

HOLD = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1])
held.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


def hold(database: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that has an exclusive transaction on `database` for so long."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(database), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def url(database: Path) -> str:
    """Without SQLite's own five seconds of waiting, so that locks are met at once."""
    return f"sqlite:///{database}?timeout=0"


def add_trial(ledger: Ledger, value: float) -> None:
    space = {"x": CategoricalDistribution([1, 2, 3])}
    ledger.study("stage").add_trial(create_trial(params={"x": 1}, distributions=dict(space), value=value))


# https://github.com/optuna/optuna-dashboard/issues/545, https://github.com/optuna/optuna/issues/820: a reader ended a study
@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda ledger: ledger.once("key", lambda: 7), id="a record"),
        pytest.param(lambda ledger: add_trial(ledger, 1.0), id="a trial"),
        pytest.param(lambda ledger: completed(ledger.study("stage")), id="reading"),
        pytest.param(lambda ledger: ledger.study("new"), id="a study"),
        pytest.param(lambda ledger: ledger.study("records"), id="a study that is there"),
    ],
)
def test_a_lock_of_another_process_is_waited_for(tmp_path: Path, use: Callable[[Ledger], object]) -> None:
    said: list[str] = []
    ledger = Ledger(url(tmp_path / "study.db"), "a", said.append)
    process = hold(tmp_path / "study.db", 0.4)
    use(ledger)
    process.wait(10)
    assert len(said) == 2
    assert re.fullmatch(r"waiting for the study's storage .*study\.db\?timeout=0, at most 120 s: database is locked", said[0])
    assert "answers again after" in said[1]


def test_what_was_measured_is_kept_and_written_once(tmp_path: Path) -> None:
    measured: list[int] = []

    def measure() -> int:
        measured.append(hold(tmp_path / "study.db", 0.3).pid)  # the lock comes while the record is being measured
        return 7

    ledger = Ledger(url(tmp_path / "study.db"), "a")
    assert ledger.once("key", measure) == 7 and len(measured) == 1
    process = hold(tmp_path / "study.db", 0.3)
    add_trial(ledger, 1.0)
    process.wait(10)
    again = Ledger(url(tmp_path / "study.db"), "a")
    assert again.once("key", lambda: 8) == 7
    assert [trial.value for trial in completed(again.study("stage"))] == [1.0]


def test_a_lock_when_the_storage_is_opened(tmp_path: Path) -> None:
    Ledger(url(tmp_path / "study.db"), "a")
    said: list[str] = []
    hold(tmp_path / "study.db", 0.3)
    Ledger(url(tmp_path / "study.db"), "b", said.append)
    assert "database is locked" in said[0]


def test_a_lock_that_stays_is_one_line(tmp_path: Path) -> None:
    ledger = Ledger(url(tmp_path / "study.db"), "a", patience_s=0.2)
    process = hold(tmp_path / "study.db", 30)
    try:
        with pytest.raises(StorageUnavailable) as refused:
            ledger.once("key", lambda: 7)
        with pytest.raises(ValueError, match=r"storage must be a URL .* locked; end the process that holds it"):
            Ledger(url(tmp_path / "study.db"), "b", patience_s=0.1)
    finally:
        process.kill()
        process.wait()
    message = str(refused.value)
    assert "\n" not in message and message.startswith("the study's storage must stay readable and writable; ")
    assert "database is locked; end the process that holds it, or name another storage" in message
    assert message.endswith("run the same command to continue from what is recorded")


@pytest.fixture
def full_disk() -> Iterator[Callable[[Path], None]]:
    """Keeps databases that are opened from now on at the size that a file has, as a full disk does."""
    pages: list[int] = []

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages[0]}")

    def fill(database: Path) -> None:
        with closing(sqlite3.connect(database)) as connection:
            pages.append(connection.execute("PRAGMA page_count").fetchone()[0])
        event.listen(Engine, "connect", limit)

    yield fill
    event.remove(Engine, "connect", limit)


def test_a_full_disk_is_waited_for_and_said(tmp_path: Path, full_disk: Callable[[Path], None]) -> None:
    Ledger(url(tmp_path / "study.db"), "a")
    full_disk(tmp_path / "study.db")
    said: list[str] = []
    ledger = Ledger(url(tmp_path / "study.db"), "a", said.append, patience_s=0.2)
    with pytest.raises(StorageUnavailable, match="full; make room on its disk"):
        ledger.once("key", lambda: "x" * 100_000)
    assert "waiting" in said[0] and "full" in said[0]


def test_a_file_that_may_only_be_read(tmp_path: Path) -> None:
    Ledger(url(tmp_path / "study.db"), "a").once("key", lambda: 7)
    with pytest.raises(StorageUnavailable, match="readonly database; make the file and its folder writable"):
        Ledger(f"sqlite:///file:{tmp_path}/study.db?mode=ro&uri=true", "a")


def test_a_file_that_breaks_while_it_is_used(tmp_path: Path) -> None:
    ledger = Ledger(url(tmp_path / "study.db"), "a")
    (tmp_path / "study.db").write_bytes(b"no database at all " * 1000)
    with pytest.raises(StorageUnavailable, match="not a database; the file is not an SQLite database"):
        ledger.once("key", lambda: 7)


@pytest.mark.parametrize(("content", "reason"), [
    (b"not a database " * 500, "not a database; the file is not an SQLite database"),
    (b"SQLite format 3\0" + bytes(2000), "database"),
])  # fmt: skip
def test_a_file_that_is_no_study(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "study.db").write_bytes(content)
    with pytest.raises(ValueError, match=rf"storage must be a URL .*{reason}") as refused:
        Ledger(url(tmp_path / "study.db"), "a")
    assert "\n" not in str(refused.value)


def test_the_database_of_another_tool(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection:
        connection.execute("CREATE TABLE studies (id INTEGER, title TEXT)")
        connection.commit()
    with pytest.raises(ValueError, match=r"no such column|no column|another tool") as refused:
        Ledger(url(tmp_path / "study.db"), "a")
    assert "\n" not in str(refused.value)


def test_a_server_that_is_not_there_keeps_its_password() -> None:
    with pytest.raises(ValueError, match="storage must be a URL") as refused:
        Ledger("postgresql://me:secret@127.0.0.1:9/study", "a")
    assert "secret" not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_run_outlives_a_lock_of_15_seconds(project: MakeProject) -> None:
    made = project()
    process = start(made)
    wait_for(lambda: num_trials(made.study_db) >= 3 or process.poll() is not None, 300)
    with closing(sqlite3.connect(made.study_db, timeout=60, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")  # at once: another process would begin when the search has ended
        time.sleep(15)
        holder.execute("ROLLBACK")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert said.count("waiting for the study's storage") == said.count("answers again after") == 1
    assert num_trials(made.study_db) == NUM_TRIALS
    verify_bundle(made.bundle)
