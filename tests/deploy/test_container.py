"""examples/container/Dockerfile: linted, true to the repository, and what it installs serves a bundle as it says."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from optimizer.importers import open_source
from tests.small_bundle import write_small_bundle
from tests.tiny_models import random_llama, save_tiny

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "examples" / "container" / "Dockerfile"
LINES = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)).splitlines()
UID = 10001


def instructions(name: str) -> list[str]:
    """What stands after each `name`, in order."""
    return [line.strip().removeprefix(f"{name} ") for line in LINES if line.strip().startswith(f"{name} ")]


def health_check() -> list[str]:
    (check,) = instructions("HEALTHCHECK")
    return list(json.loads(check[check.index("[") :]))


def test_hadolint_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, "--failure-threshold", "style", DOCKERFILE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_the_linter_is_no_dummy(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd / && pip install numpy\n")
    linter = Path(sys.executable).with_name("hadolint")
    said = subprocess.run([linter, tmp_path / "Dockerfile"], capture_output=True, text=True, timeout=60).stdout
    assert {"DL3006", "DL3013", "DL3042"} <= set(re.findall(r"DL\d+", said))


def test_everything_that_is_copied_is_there_and_nothing_is_missing() -> None:
    copied = {name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert copied == packages | {"constraints.txt", "pyproject.toml", project["project"]["readme"]}
    assert all((ROOT / name).exists() for name in copied)
    ignored = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert ignored[0] == "*" and {name[1:] for name in ignored if name.startswith("!")} == copied


def test_the_last_stage_is_small_and_not_root() -> None:
    assert len(instructions("FROM")) == 2 and len(set(instructions("FROM"))) == 2
    last = LINES[max(i for i, line in enumerate(LINES) if line.startswith("FROM ")) :]
    assert not [line for line in last if line.startswith(("RUN", "ADD"))]
    assert [line for line in last if line.startswith("USER")] == [f"USER {UID}:{UID}"]


def test_no_torch_is_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert "'.[serve]'" in instructions("RUN")[0] and not any("torch" in name for name in extras["serve"])


def test_its_options_and_its_probe_are_the_servers(
    served_paths: set[str], check_arguments: Callable[..., dict[str, object]]
) -> None:
    (entry,) = instructions("ENTRYPOINT")
    name, *arguments = json.loads(entry)
    given = check_arguments(arguments)
    assert (name, given["host"], given["port"]) == ("serve", "0.0.0.0", instructions("EXPOSE")[0])
    host_and_path = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", health_check()[-1])
    assert host_and_path and host_and_path[1] == given["port"] and host_and_path[2] in served_paths


@pytest.fixture(scope="module")
def bundle(kernels_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    source = open_source(save_tiny(folder / "model", random_llama(300)))
    return write_small_bundle(folder / "bundle", source, folder / "store", kernels_path)


def files_below(*folders: Path) -> set[tuple[Path, int]]:
    """Every file, with the time of its last change."""
    return {(path, path.stat().st_mtime_ns) for folder in folders for path in folder.rglob("*")}


@pytest.mark.slow
def test_what_it_installs_serves_a_bundle_and_writes_nothing(bundle: Path, tmp_path: Path) -> None:
    """The RUN line without Docker, in a new environment; the server has no home."""
    source, environment = tmp_path / "source", tmp_path / "coldforge"
    source.mkdir()
    for name in (name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    command = instructions("RUN")[0].replace("/opt/coldforge", str(environment)).replace("python -m", f"{sys.executable} -m")
    subprocess.run(["sh", "-ec", command], cwd=source, check=True, timeout=600, capture_output=True)
    installed = {path.name.split("-")[0].lower() for path in environment.glob("lib/*/site-packages/*.dist-info")}
    assert {"coldforge", "fastapi", "tokenizers"} <= installed and not {"torch", "optuna", "transformers"} & installed

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    _, *arguments = json.loads(instructions("ENTRYPOINT")[0])
    arguments = [str(bundle) if a == "/bundle" else port if a == "8000" else a for a in arguments]
    check = [environment / "bin" / "python", *health_check()[1:-1], health_check()[-1].replace("8000", port)]
    variables = {"PATH": f"{environment}/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"}
    before = files_below(environment, bundle)
    with subprocess.Popen([environment / "bin" / "serve", *arguments], env=variables, cwd="/") as process:
        try:
            deadline_s = time.monotonic() + 60
            while subprocess.run(check, env=variables, capture_output=True).returncode != 0:
                assert process.poll() is None and time.monotonic() < deadline_s
                time.sleep(0.1)
            chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=chat, timeout=60)
            assert answer.json()["usage"]["completion_tokens"] >= 1
            assert "<title>Coldforge</title>" in httpx.get(f"http://127.0.0.1:{port}/").text, "the page is in the package"
        finally:
            process.terminate()
        assert process.wait(30) == 0
    assert files_below(environment, bundle) == before
