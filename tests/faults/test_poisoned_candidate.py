"""The same faults in the candidate of a night: it fails, and the name stays where it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console

from artifacts.registry import Registry
from optimizer.measure.served_blocks import Block
from optimizer.nights.night import Night
from optimizer.records.progress import Reporter
from optimizer.retune.command import Request, run_retune
from tests.faults.bench import Bench
from tests.faults.faults import Fault
from tests.faults.test_publication import proved
from tests.faults.written import in_bundle, write_with
from tests.optimizer.conftest import Project

__all__ = ["proved"]
NAME = "toy@production"
#: of the faults, one for each kind of check; the others are marked slow
QUICK = {
    "zero points transposed",
    "RoPE theta of another model",
    "a byte flipped in the weights",
    "cache written one slot late",
}


@pytest.fixture(scope="session")
def used(proved: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project and a registry whose name means its clean bundle. Another choice makes another candidate; not to be changed."""
    folder = tmp_path_factory.mktemp("used") / "run"
    shutil.copytree(proved.folder, folder)
    project = Project(folder)
    assert project.optimize().exit_code == 0
    registry = Registry.create(folder / "registry")
    registry.promote(NAME, registry.add(project.bundle), why="first")
    spec = json.loads(project.spec_path.read_text())
    project.spec_path.write_text(json.dumps(spec | {"generation": {"temperature": 0.5}}))
    return folder


def night_of(folder: Path) -> Night:
    """Candidates are said to be twice as fast: nothing but their faults stops them."""

    def twice(*_: object) -> Block:
        return Block(*({"workload": ms, "decode": ms, "prefill": ms} for ms in (20.0, 10.0)))

    request = Request(folder / "model.yaml", NAME, folder / "registry", None, folder / "night")
    return run_retune(request, Reporter(Console(quiet=True)), twice)


@pytest.mark.parametrize("fault", in_bundle(QUICK))
def test_a_poisoned_candidate_is_never_promoted(
    fault: Fault, bench: Bench, used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(used, folder)

    write_with(fault, bench, tmp_path, monkeypatch)
    registry = Registry.open(folder / "registry")
    before = registry.digest_of(NAME)
    if fault.stopped_by == "ValidationError":
        # What the writer is given cannot come from a user: a bug, with its traceback.
        with pytest.raises(ValidationError):
            night_of(folder)
    else:
        night = night_of(folder)
        assert night.verdict == "failed" and night.why.startswith("the bundle must be what was proved, but "), night.why
        assert registry.events()[-1].why == f"failed: {night.why}"
    assert registry.digest_of(NAME) == before and registry.digests() == [before]
    assert not (folder / "night" / "candidate").exists()


def test_a_clean_candidate_is(used: Path, tmp_path: Path) -> None:
    """The same night without a fault: another sampling is another bundle."""
    shutil.copytree(used, tmp_path / "run")
    night = night_of(tmp_path / "run")
    assert night.verdict == "promoted", night.why
    assert Registry.open(tmp_path / "run" / "registry").digest_of(NAME) == night.candidate
