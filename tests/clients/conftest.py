"""Servers that other environments' clients talk to: one whose model says what the tests want, and one of a real model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.serving_process import serving
from tests.server.smollm2_bundle import write_smollm2_bundle
from tests.server.speaking_process import speaking


@pytest.fixture(scope="session")
def speaker() -> Iterator[str]:
    """The URL of a server whose model `tiny` says what `keyed` says."""
    with speaking() as server:
        yield server.url


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path, kernels_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `serve` on a bundle of SmolLM2; its model is called smollm2."""
    folder = tmp_path_factory.mktemp("smollm2")
    with serving(write_smollm2_bundle(smollm2_gguf, kernels_path, folder), folder / "stderr") as server:
        yield f"http://127.0.0.1:{server.port}"
