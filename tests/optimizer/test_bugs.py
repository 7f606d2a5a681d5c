"""A user's error is one line; a bug in any stage shows its traceback, says that it is one, and is no success."""

from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from artifacts.errors import UserError
from kernels.cpu.library import LibraryRefused
from optimizer.cli import coldforge
from runtime.cli import serve
from tests.optimizer.conftest import MakeProject, Project

NOTE = "This is a bug in coldforge"
STAGES = ("texts.TextStage", "weights.WeightStage", "kernels.KernelStage")
#: shapes that numpy refuses to add, by a ValueError of its own
BUG = "operands could not be broadcast together with shapes (3,) (4,)"


def add_shapes_that_do_not_fit(*_: object, **__: object) -> object:
    return np.zeros(3) + np.zeros(4)


def assert_bug(result: Result) -> None:
    assert result.exit_code == 1
    assert isinstance(result.exception, ValueError) and not isinstance(result.exception, UserError)
    said = "".join(traceback.format_exception(result.exception))
    assert "Traceback" in said and BUG in said and said.rstrip().splitlines()[-1].startswith(NOTE)


@pytest.mark.parametrize("stage", STAGES)
def test_a_bug_in_a_stage_is_no_refusal(project: MakeProject, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    monkeypatch.setattr(f"optimizer.stages.{stage}.run", add_shapes_that_do_not_fit)
    made = project()
    assert_bug(made.optimize())
    assert not made.bundle.exists()


def test_a_bug_while_a_bundle_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("runtime.loading.load", add_shapes_that_do_not_fit)
    assert_bug(CliRunner().invoke(serve, [str(tmp_path), "--port", "18173"]))


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_bug_in_a_command_on_bundles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str) -> None:
    monkeypatch.setattr("optimizer.bundle.inspection.read_manifest", add_shapes_that_do_not_fit)
    monkeypatch.setattr("optimizer.bundle.inspection.verify_bundle", add_shapes_that_do_not_fit)
    assert_bug(CliRunner().invoke(coldforge, [command, str(tmp_path)]))


def test_what_a_terminal_shows_of_a_bug(project: MakeProject) -> None:
    """Of the command as a process: the traceback, then the note, and a status that scripts see."""
    made: Project = project()
    injected = (
        "import numpy, optimizer.run.command as command\n"
        "command.load_spec = lambda path: numpy.zeros(3) + numpy.zeros(4)\n"
        "from optimizer.cli import optimize\n"
        f"optimize([{str(made.spec_path)!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", injected], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and BUG in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith(NOTE)


@pytest.mark.parametrize(
    "error",
    [UserError("must be so"), LibraryRefused("must be so"), PermissionError(13, "must be so", "model.yaml")],
    ids=lambda error: type(error).__name__,
)
def test_a_refusal_is_one_line(project: MakeProject, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("optimizer.run.command.load_spec", refuse)
    result = project().optimize()
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.output == f"Error: {error}\n"


def test_a_text_that_is_no_text_is_named(project: MakeProject) -> None:
    made = project(workload={"trace": "trace.csv"})
    (made.folder / "trace.csv").write_bytes(b"\xff\xfe\x00")
    result = made.optimize()
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "a trace must be a readable UTF-8 file; " in result.output and "trace.csv" in result.output
