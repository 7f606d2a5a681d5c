"""The same faults in the candidate of a night: it fails, and the name stays where it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console

from artifacts.manifest import Deployment, Manifest
from artifacts.registry import Registry
from artifacts.weights import Array
from artifacts.writer import write_bundle
from optimizer.measure.served_blocks import Block
from optimizer.nights.night import Night
from optimizer.records.progress import Reporter
from optimizer.retune.command import Request, run_retune
from tests.faults.bench import Bench, Draft
from tests.faults.faults import IN_BUNDLE, Fault
from tests.faults.test_publication import WITHOUT_EFFECT, proved
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


def _parameter(fault: Fault) -> object:
    return pytest.param(fault, id=fault.name, marks=() if fault.name in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("fault", [_parameter(fault) for fault in IN_BUNDLE if fault.name not in WITHOUT_EFFECT])
def test_a_poisoned_candidate_is_never_promoted(
    fault: Fault, bench: Bench, used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(used, folder)

    def faulty(
        destination: Path,
        deployment: Deployment,
        tensors: dict[str, Array],
        files: dict[str, bytes | Path],
        admit: Callable[[Path], None],
    ) -> Manifest:
        draft = Draft(tensors, files, deployment.model_dump(mode="json"), bench.items, bench.judge)
        fault.inject(draft, monkeypatch, tmp_path)

        def damaged(written: Path) -> None:
            for damage in draft.damages:
                damage(written)
            admit(written)

        described = Deployment.model_validate_json(json.dumps(draft.description))
        return write_bundle(destination, described, draft.tensors, draft.files, admit=damaged)

    monkeypatch.setattr("optimizer.bundle.emit.write_bundle", faulty)
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
