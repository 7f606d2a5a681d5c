from __future__ import annotations

from pathlib import Path

import pytest

from optimizer.records.ledger import Ledger


def test_a_record_is_measured_once_across_processes_worth_of_ledgers(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    calls: list[int] = []

    def measure() -> dict[str, float]:
        calls.append(1)
        return {"ms": 0.1 + 0.2}

    assert Ledger(url, "a").once("key", measure) == {"ms": 0.1 + 0.2}
    assert Ledger(url, "a").once("key", measure) == {"ms": 0.1 + 0.2}
    assert len(calls) == 1
    assert Ledger(url, "b").once("key", lambda: 7) == 7, "another run's records are another name's"


def test_a_storage_that_cannot_be_opened_says_what_one_looks_like() -> None:
    with pytest.raises(ValueError, match=r"storage must be a URL .* sqlite:///study\.db; got 'nonsense"):
        Ledger("nonsense://x", "a")
