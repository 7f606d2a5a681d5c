from __future__ import annotations

from collections.abc import Iterator

import pytest

from optimizer.records import lease
from optimizer.search import shared
from tests.postgresql import PostgreSQL, postgresql


@pytest.fixture(scope="session")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as running:
        yield running


@pytest.fixture
def brief_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is silent for 1.5 s is out; leases are looked at as much more often."""
    monkeypatch.setattr(lease, "BEAT_S", 0.4)
    monkeypatch.setattr(lease, "LEASE_S", 1.5)
    monkeypatch.setattr(shared, "ROLL_S", 0.1)
