"""Every fault is stopped, and by what it should be; clean bundles of other seeds are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.bench import Bench
from tests.faults.faults import FAULTS, Fault, parameters


@pytest.mark.parametrize("fault", parameters())
def test_a_fault_is_stopped(fault: Fault, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = bench.draft()
    fault.inject(draft, monkeypatch, tmp_path)
    assert bench.stopped_by(draft, tmp_path / "bundle") == fault.stopped_by


def test_faults_are_distinct() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 25
