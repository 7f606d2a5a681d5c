"""What tests of every folder share: where the real model and the public data sets are."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from kernels.cpu.build import build
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa

# No test measures time: an example may be slow because a neighbour is busy.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
# Triton decides when it is imported; where there is a GPU, its tests set 0.
os.environ.setdefault("TRITON_INTERPRET", "1")
# Workers of `pytest -n` share the cores; torch must not start a thread for each core in every one of them.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is imported and collected stays to the end: looking through it for garbage again and again costs seconds.
gc.disable()

_ROOT = Path(__file__).resolve().parent.parent
#: what takes longest goes first, so that no worker is left alone with it at the end
_LONGEST = (
    "runtime/test_company.py",
    "optimizer/test_optimize.py",
    "optimizer/transforms/test_scale_search.py",
    "kernels/test_invariance.py",
    "runtime/gpu/test_interpreted_steps.py",
    "kernels/test_build.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in `_LONGEST` first, all others as they were."""
    rank = {_ROOT / "tests" / name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish() -> None:
    """From here on there is garbage."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Nothing is leaked: libraries look at the end."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that all workers of this run of pytest share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def kernels_path(run_folder: Path) -> Path:
    """The kernels for this machine's instruction set, default constants: one worker builds them, all load that library."""
    path = run_folder / "kernels.so"
    with FileLock(path.with_suffix(".lock")):
        return path if path.exists() else build({}, path, best_isa(host()))


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct in Q4_1: $COLDFORGE_SMOLLM2, or where `make` puts it."""
    default = _ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    return _present(Path(os.environ.get("COLDFORGE_SMOLLM2", default)), "`make models/SmolLM2-135M-Instruct.Q4_1.gguf`")


@pytest.fixture(scope="session")
def template_wheels() -> Path:
    """Wheels that carry chat templates of well-known models: $COLDFORGE_TEMPLATES, or where `make` puts them."""
    default = _ROOT / "models" / "chat_templates"
    return _present(Path(os.environ.get("COLDFORGE_TEMPLATES", default)), "`make models/chat_templates`")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Evaluation sets and traces: $COLDFORGE_DATA, or shared/data beside the repository."""
    default = _ROOT.parent / "shared" / "data"
    return _present(Path(os.environ.get("COLDFORGE_DATA", default)), "set COLDFORGE_DATA")


def _present(path: Path, fix: str) -> Path:
    """`path`; where it is absent the test is skipped, but fails in CI, where a skip would go unseen."""
    if not path.exists():
        reason = f"{path} is not there: {fix}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
