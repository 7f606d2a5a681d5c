"""Builds of the kernels for the whole folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from kernels.cpu.build import default_cache
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library
from tests.kernels.claiming import Claiming
from tests.kernels.emulated import EMULATED, NATIVE, build_emulated


@pytest.fixture(scope="session")
def object_cache() -> Path:
    """The user's: what a source gives under some flags is compiled once, whichever worker and test asks for it."""
    return default_cache()


@pytest.fixture(scope="session")
def library(kernels_path: Path) -> Library:
    """The kernels for this machine's instruction set, default constants."""
    return Library(kernels_path)


@pytest.fixture(scope="session")
def emulated_tiles(library: Library, run_folder: Path) -> Library:
    """The same with matrix tiles emulated; one worker builds it."""
    path = run_folder / "emulated.so"
    with FileLock(path.with_suffix(".lock")):
        return Library(path if path.exists() else build_emulated(path, best_isa(host())))


@pytest.fixture(scope="session", params=[NATIVE, EMULATED])
def each_library(request: pytest.FixtureRequest, library: Library) -> Library:
    """The kernels as this machine runs them, and with the code for tiles emulated. For ops that have such code."""
    if request.param == NATIVE:
        return library
    emulated: Library = request.getfixturevalue("emulated_tiles")
    return emulated


@pytest.fixture(scope="session")
def claiming(tmp_path_factory: pytest.TempPathFactory) -> Claiming:
    return Claiming(tmp_path_factory.mktemp("claiming"))
