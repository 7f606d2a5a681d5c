"""The sample kernels, compiled once for the folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

from kernels.compile.static_record import StaticRecord, static_record


@dataclass(frozen=True)
class Compiled:
    binary: bytes | str
    ptx: str
    num_warps: int
    shared_bytes: int


def compile_into(folder: Path) -> None:
    """One worker compiles the samples for all; `folder` is there when they are."""
    partial = folder.with_suffix(".partial")
    partial.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(partial / "cache")
    program = Path(__file__).with_name("sample_kernels.py")
    subprocess.run([sys.executable, str(program), str(partial)], env=environment, check=True, capture_output=True)
    partial.rename(folder)


@pytest.fixture(scope="session")
def compiled(run_folder: Path) -> Callable[[str, str], Compiled]:
    """(name of a sample, architecture) -> what the compiler made of it."""
    pytest.importorskip("triton")
    folder = run_folder / "samples"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            compile_into(folder)

    def read(name: str, arch: str) -> Compiled:
        path = folder / f"{name}.{arch}"
        binary = path.read_bytes()
        metadata = json.loads(path.with_name(f"{path.name}.json").read_text())
        ptx = path.with_name(f"{path.name}.ptx").read_text()
        return Compiled(binary.decode() if arch.startswith("gfx") else binary, ptx, **metadata)

    return read


@pytest.fixture(scope="session")
def record(compiled: Callable[[str, str], Compiled]) -> Callable[[str, str], StaticRecord]:
    """(name of a sample, architecture) -> its record."""

    @cache
    def read(name: str, arch: str) -> StaticRecord:
        kernel = compiled(name, arch)
        return static_record(kernel.binary, arch=arch, num_warps=kernel.num_warps, shared_bytes=kernel.shared_bytes)

    return read
