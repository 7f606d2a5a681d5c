"""`serve NAME` that cannot start: one line that says why."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from artifacts.registry import Registry
from tests.server.serving_process import COMMAND


def refused(*arguments: str) -> str:
    """What the command writes before it ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    finished = subprocess.run([COMMAND, *arguments, "--port", str(port)], capture_output=True, text=True, timeout=60)
    assert finished.returncode in (1, 2)
    return finished.stderr.strip()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("tiny@production", "--registry", "nowhere"), "nowhere must be a registry (a folder with registry.json), and is not;"),
        (("tiny@production", "--registry", "here"), "here has no name 'tiny@production'; it has none yet"),
        (("here", "--registry", "here"), "it is for a NAME such as smollm2@production; leave it out to serve a folder"),
    ],
)
def test_one_line_says_why(arguments: tuple[str, ...], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Registry.create(tmp_path / "here")
    said = refused(*arguments)
    assert line in said.splitlines()[-1] and "Traceback" not in said
