"""A pool of compilers. Workers share its cache, which outlives the run where COLDFORGE_TEST_KERNELS names a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernels.compile.cross_compile import CrossCompiler


@pytest.fixture(scope="session")
def compiler(run_folder: Path) -> Iterator[CrossCompiler]:
    kept = os.environ.get("COLDFORGE_TEST_KERNELS")
    with CrossCompiler(Path(kept) if kept else run_folder / "compiled") as pool:
        yield pool
