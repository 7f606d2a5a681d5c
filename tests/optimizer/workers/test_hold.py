"""Of runs of one name on one storage, one adds records."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from optimizer.records.hold import RUNS, StorageHeld, hold
from optimizer.records.holder import Holder
from optimizer.records.lease import Lease
from optimizer.records.ledger import Ledger
from tests.postgresql import PostgreSQL


@pytest.mark.usefixtures("brief_leases")
def test_the_second_run_is_told_who_measures(server: PostgreSQL, tmp_path: Path) -> None:
    ledger, said = Ledger(server.url, "held"), list[str]()
    with hold(ledger, Holder.here(tmp_path / "a"), said.append):
        with (
            pytest.raises(StorageHeld, match=rf"'held' in this storage .* process {os.getpid()} on .*coldforge worker"),
            hold(Ledger(server.url, "held"), Holder.here(tmp_path / "b"), said.append),
        ):
            pass
        with hold(Ledger(server.url, "another name"), Holder.here(tmp_path / "b"), said.append):
            pass
    with hold(Ledger(server.url, "held"), Holder.here(tmp_path / "b"), said.append):
        pass


@pytest.mark.usefixtures("brief_leases")
def test_a_run_that_was_killed_is_waited_for_elsewhere_and_known_to_be_gone_in_its_own_place(tmp_path: Path) -> None:
    url, said = f"sqlite:///{tmp_path}/study.db", list[str]()
    for place, expected in (("there", 1), ("here", 0)):
        killed = Lease(Ledger(url, "held"), RUNS, Holder.here(tmp_path / place))
        killed._ended.set()
        said.clear()
        with hold(Ledger(url, "held"), Holder.here(tmp_path / "here"), said.append):
            assert len([line for line in said if "may have ended without a word" in line]) == expected


@pytest.mark.usefixtures("brief_leases")
def test_a_run_that_lost_its_hold_makes_no_record(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/study.db", "held")
    with hold(ledger, Holder.here(tmp_path), lambda _: None) as lease:
        assert ledger.once("key", lambda: 1) == 1
        lease._lost.set()
        with pytest.raises(StorageHeld, match=r"was silent for .* run the same command"):
            ledger.once("other", lambda: 2)
        assert ledger.once("key", lambda: 3) == 1, "what is there may be read"
