"""One build of the kernels for the whole folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernels.cpu.build import build
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library


@pytest.fixture(scope="session")
def object_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory, object_cache: Path) -> Library:
    """The kernels for this machine's instruction set, default constants."""
    return Library(build({}, tmp_path_factory.mktemp("build") / "kernels.so", best_isa(host()), object_cache))
