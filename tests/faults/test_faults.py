"""Every fault is stopped, and by what it should be; clean bundles of other seeds are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from optimizer.quantization import ROUND_TO_NEAREST, Calibration, gptq_method
from tests.faults.bench import Bench
from tests.faults.faults import FAULTS, FP8_RANGES, Fault


def _parameter(fault: Fault) -> object:
    return pytest.param(fault, id=fault.name, marks=pytest.mark.slow if fault.is_slow else ())


@pytest.mark.parametrize("fault", [_parameter(fault) for fault in FAULTS])
def test_a_fault_is_stopped(fault: Fault, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = bench.draft()
    fault.inject(draft, monkeypatch, tmp_path)
    expected = set(fault.stopped_by.split(" or "))
    # A fault may cost about as much as the gate allows: a KL that six texts leave undecided does not pass either.
    expected |= {"kl, inconclusive"} if "kl" in expected else set()
    assert bench.stopped_by(draft, tmp_path / "bundle") in expected


@pytest.mark.parametrize("largest", [pytest.param(value, id=name) for name, value in FP8_RANGES.items()])
def test_a_saturating_fp8_cast_is_stopped(
    largest: float, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.emulated_verdict(tmp_path / "right").passed
    monkeypatch.setattr("optimizer.formats.fp8.E4M3_MAX", largest)
    verdict = bench.emulated_verdict(tmp_path / "wrong")
    assert verdict.outcome == "fail" and "kl" in verdict.shortfall()


def test_faults_are_distinct() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 25


@pytest.mark.parametrize("seeds", [range(1, 7), pytest.param(range(7, 51), marks=pytest.mark.slow)], ids=["6", "44 more"])
def test_clean_bundles_of_other_seeds_pass(seeds: range, bench: Bench, tmp_path: Path) -> None:
    """A seed draws the text that is judged on, the text that GPTQ calibrates on, and the bootstrap."""
    stopped = {}
    for seed in seeds:
        run = replace(bench, seed=seed, folder=tmp_path / str(seed))
        run.folder.mkdir()
        calibration = Calibration(run.source, run.texts(8, 1000 + seed), run.folder / "calibration")
        run = replace(run, method=gptq_method(calibration, clip=True) if seed % 2 else ROUND_TO_NEAREST)
        if found := run.stopped_by(run.draft(), run.folder / "bundle"):
            stopped[seed] = found
    assert not stopped
