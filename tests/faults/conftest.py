"""One toy model and one build of the kernels for all faults."""

from __future__ import annotations

import pytest
import torch

from kernels.cpu.build import build
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from optimizer.importers import open_source
from tests.faults.bench import Bench
from tests.faults.toy import save_toy


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("faults")
    library = build({}, folder / "cpu.so", best_isa(host()))
    return Bench(open_source(save_toy(folder / "toy")), library, folder)
