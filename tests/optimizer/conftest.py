"""A tiny random llama on disk, model.yaml files over it, and the commands that read them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from filelock import FileLock

from kernels.cpu.build import resolve_constants
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from optimizer.cli import optimize
from optimizer.measure import paired_speed
from optimizer.measure.timing import interleaved_ms
from optimizer.records.hold import RUNS
from search_spaces.space import load_space
from tests.tiny_models import random_llama, save_tiny

SCRIPTS = Path(sys.executable).parent
SCHEMES = ["int4-g32-asym-a8", "int8", "fp32"]
KINDS = ("embed", "head", "qkv", "o", "gate_up", "down")
NUM_TRIALS = 10


def save_tiny_llama(folder: Path, hidden_size: int = 64) -> Path:
    """Two layers and 300 tokens of a random llama; a byte-level tokenizer and a chat template."""
    model = random_llama(300, hidden_size=hidden_size)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)  # logits of an untrained model are near 0, and nothing done to it costs any KL
    return save_tiny(folder, model)


def small_space(schemes: list[str]) -> dict[str, Any]:
    """The shipped space, cut: few schemes, and all constants but one at their defaults, whose kernels other tests build too."""
    shipped, defaults = load_space().kernels, resolve_constants({}, best_isa(host()))
    constants = {
        op: {"constants": {name: [defaults.get(name, values[0])] for name, values in space.constants.items()}}
        for op, space in shipped.items()
    }
    rows = constants["paged_attention"]["constants"]["PAGED_ATTENTION_ROWS"]
    rows.append(next(other for other in shipped["paged_attention"].constants["PAGED_ATTENTION_ROWS"] if other not in rows))
    return {
        "kernels": constants,
        "precision": {"groups": {kind: schemes for kind in KINDS}, "kv_cache": ["fp32"]},
        "serving": {"kv_block_size": [16, 32], "max_num_seqs": [4, 2], "max_num_batched_tokens": [64, 32]},
    }


@dataclass(frozen=True)
class Project:
    """A folder with a model.yaml; JSON is YAML."""

    folder: Path

    @property
    def spec_path(self) -> Path:
        return self.folder / "model.yaml"

    @property
    def bundle(self) -> Path:
        return self.folder / "out"

    @property
    def study_db(self) -> Path:
        return self.folder / "out.work" / "study.db"

    @property
    def storage(self) -> str:
        return f"sqlite:///{self.study_db}"

    def write(self, changes: dict[str, Any], schemes: list[str]) -> None:
        spec: dict[str, Any] = {
            "source": "tiny",
            "evaluation": {"num_sequences": 4, "tokens_per_sequence": 32},
            "workload": {"prompt_tokens": 32, "output_tokens": 16},
            "gate": {"max_kl": 0.05},
            "output": "out",
        }
        search = {"trials": NUM_TRIALS, "space": "space.json"} | changes.pop("search", {})
        self.spec_path.write_text(json.dumps(spec | {"search": search} | changes))
        (self.folder / "space.json").write_text(json.dumps(small_space(schemes)))

    def optimize(self, *options: str) -> Result:
        """The command, within this process."""
        return CliRunner().invoke(optimize, [str(self.spec_path), *options])


MakeProject = Callable[..., Project]


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture
def project(tiny_llama: Path, tmp_path: Path) -> MakeProject:
    """Makes a project in `tmp_path` whose model.yaml has `changes` in place of its sections."""

    def make(*, schemes: list[str] = SCHEMES, **changes: Any) -> Project:
        (tmp_path / "tiny").symlink_to(tiny_llama)
        made = Project(tmp_path)
        made.write(changes, schemes)
        return made

    return make


@pytest.fixture(scope="session")
def finished(tiny_llama: Path, kernels_path: Path, run_folder: Path) -> Project:
    """What `optimize`, run as a user does, has made for all workers. Not to be changed. Most of what it compiles is there."""
    project = Project(run_folder / "finished")
    with FileLock(run_folder / "finished.lock"):
        if not project.bundle.exists():
            shutil.copytree(tiny_llama, project.folder / "tiny")
            project.write({}, SCHEMES)
            subprocess.run([SCRIPTS / "optimize", project.spec_path], check=True, capture_output=True, text=True, timeout=300)
    return project


@pytest.fixture(autouse=True)
def brief_pairs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Speed is compared in samples of 60 ms, which is not what these tests are about: here 1 ms will do."""

    def brief(actions: Any, **options: Any) -> Any:
        return interleaved_ms(actions, **options | {"min_round_ms": 1.0})

    monkeypatch.setattr(paired_speed, "interleaved_ms", brief)
    yield


def count(study_db: Path, query: str) -> int:
    """A number out of the study's SQLite file, read without a lock on it; 0 while it does not exist."""
    import sqlite3

    try:
        with closing(sqlite3.connect(f"file:{study_db}?mode=ro", uri=True)) as connection:
            return int(connection.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def num_trials(study_db: Path) -> int:
    """Finished trials of the precision search."""
    return count(
        study_db,
        "select count(*) from trials join studies using (study_id) where study_name like '%/precision%' and state = 'COMPLETE'",
    )


def recorded(project: Project, name: str) -> Any:
    """The one record of `name`, whatever it depends on."""
    import sqlite3

    with closing(sqlite3.connect(project.study_db)) as connection:
        ((value,),) = connection.execute("select value_json from study_user_attributes where key like ?", (f"{name}/%",))
    return json.loads(value)


def num_sensitivities(study_db: Path) -> int:
    return count(study_db, "select count(*) from study_user_attributes where key like 'sensitivity/layers.%'")


def num_records(study_db: Path) -> int:
    """Everything that was ever measured: records, and trials of all studies but of the one that says who holds the storage."""
    trials = f"select count(*) from trials join studies using (study_id) where study_name not like '%/{RUNS}'"
    return count(study_db, f"select (select count(*) from study_user_attributes) + ({trials})")
