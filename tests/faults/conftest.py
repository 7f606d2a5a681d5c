"""One toy model and one build of the kernels for all faults."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optimizer.importers import open_source
from tests.faults.bench import Bench
from tests.faults.toy import save_toy


@pytest.fixture(scope="session")
def bench(kernels_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("faults")
    return Bench(open_source(save_toy(folder / "toy")), kernels_path, folder)
