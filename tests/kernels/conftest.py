"""Builds of the kernels for the whole folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from kernels.cpu.build import build, default_cache
from kernels.cpu.host import host
from kernels.cpu.isa import Isa, best_isa
from kernels.cpu.library import Library
from tests.kernels.claiming import Claiming


@pytest.fixture(scope="session")
def object_cache() -> Path:
    """The user's: what a source gives under some flags is compiled once, whichever worker and test asks for it."""
    return default_cache()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory, run_folder: Path) -> Library:
    """The kernels for this machine's instruction set, default constants."""
    return _built(best_isa(host()), tmp_path_factory.mktemp("build") / "kernels.so", run_folder)


@pytest.fixture(scope="session")
def emulated_tiles(tmp_path_factory: pytest.TempPathFactory, run_folder: Path) -> Library:
    """The code for matrix tiles, on whatever machine this is: they are loops over arrays."""
    best = best_isa(host())
    isa = replace(best, name=f"{best.name} with emulated tiles", compiler_flags=(*best.compiler_flags, "-DCF_EMULATED_TILES"))
    return _built(isa, tmp_path_factory.mktemp("emulated") / "kernels.so", run_folder)


def _built(isa: Isa, path: Path, run_folder: Path) -> Library:
    """One worker compiles, the others find its objects in the user's cache."""
    with FileLock(run_folder / f"{isa.name}.lock"):
        return Library(build({}, path, isa))


@pytest.fixture(scope="session", params=["native", "emulated tiles"])
def each_library(request: pytest.FixtureRequest, library: Library) -> Library:
    """The kernels as this machine runs them, and with the code for tiles emulated."""
    if request.param == "native":
        return library
    emulated: Library = request.getfixturevalue("emulated_tiles")
    return emulated


@pytest.fixture(scope="session")
def claiming(tmp_path_factory: pytest.TempPathFactory) -> Claiming:
    return Claiming(tmp_path_factory.mktemp("claiming"))
