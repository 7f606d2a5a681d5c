"""A workspace is for one run at a time; the second is told who has it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from optimizer.cli import optimize
from optimizer.run.workspace import WorkspaceHeld, held, workspace_of

_HOLD = """
import sys, time
from pathlib import Path
from optimizer.run.workspace import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the workspace of `tmp_path / "out"`."""
    workspace = workspace_of(tmp_path / "out")
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(workspace)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_run_is_told_who_has_the_workspace(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    (tmp_path / "model.gguf").touch()
    spec = tmp_path / "model.yaml"
    spec.write_text("source: model.gguf\noutput: out\n")
    told = CliRunner().invoke(optimize, [str(spec)])
    assert told.exit_code == 1 and "Traceback" not in told.output
    assert f"out.work is for one run at a time, and process {holder.pid} on {os.uname().nodename}, since 20" in told.output


def test_a_killed_holder_leaves_nothing_to_clean_up(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    workspace = workspace_of(tmp_path / "out")
    with pytest.raises(WorkspaceHeld), held(workspace):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with held(workspace):
        pass
    with held(workspace), pytest.raises(WorkspaceHeld, match=f"process {os.getpid()} "), held(workspace):
        pass
