"""The GPU under test, and compilers for it. Where there is none, every test is skipped and says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernels.compile.cross_compile import CrossCompiler
from tests.gpu.on_device import Gpu, find_gpu


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    found = find_gpu()
    if isinstance(found, str):
        pytest.skip(f"needs a GPU: {found}")
    return found


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrossCompiler]:
    with CrossCompiler(tmp_path_factory.mktemp("compiled")) as pool:
        yield pool
