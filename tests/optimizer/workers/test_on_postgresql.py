"""A PostgreSQL server as the storage: opened by many at once, away for a while."""

from __future__ import annotations

import threading
import time

import optuna
from optuna.trial import create_trial

from optimizer.records.ledger import Ledger
from tests.postgresql import PostgreSQL


def test_an_empty_database_may_be_opened_by_many_at_once(server: PostgreSQL) -> None:
    """Each makes the tables where they are missing, and all but one are told that somebody else did."""
    url, opened = server.url_of(server.create()), list[Ledger]()
    threads = [threading.Thread(target=lambda: opened.append(Ledger(url, "toy"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(opened) == 6


def test_a_server_that_restarts_is_waited_for(server: PostgreSQL) -> None:
    said: list[str] = []
    ledger = Ledger(server.url_of(server.create()), "toy", said.append)
    server.stop()
    threading.Timer(0.5, server.start).start()
    assert ledger.once("key", lambda: 7) == 7
    assert "waiting for the study's storage" in said[0] and "answers again after" in said[1] and len(said) == 2


def test_connections_that_are_cut_in_a_transaction_are_made_anew(server: PostgreSQL) -> None:
    """A session whose transaction was cut answered every later question with an error, and no waiting helped."""
    url, over, counts = server.url_of(server.create()), threading.Event(), list[int]()

    def write(study: optuna.Study) -> None:
        number = 0
        while not over.is_set():
            study.add_trial(create_trial(value=1.0, user_attrs={"number": number}))
            study.get_trials(deepcopy=False)
            number += 1
        counts.append(number)

    threads = [threading.Thread(target=write, args=(Ledger(url, "toy").study(f"writer {i}"),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        time.sleep(1)
        server.stop()
        server.start()
    over.set()
    for thread in threads:
        thread.join(60)
    assert len(counts) == 4
