"""A bundle carries what its making measured: another run begins from the bundle alone, and measures nothing twice."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from artifacts.precision import Scheme
from artifacts.reader import read_manifest
from optimizer.bundle.fingerprint import fingerprint_of
from optimizer.bundle.making import Making
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.run.forge import forge
from optimizer.search.bands import Band
from optimizer.search.earlier import Earlier
from optimizer.search.precision import Trial
from optimizer.spec import load_spec
from optimizer.stages.job import Job
from tests.optimizer.conftest import NUM_TRIALS, SCHEMES, Project, num_trials, recorded


@pytest.fixture
def making(finished: Project) -> Making:
    found = Making.read(finished.bundle, read_manifest(finished.bundle))
    assert found is not None
    return found


def opened(project: Project, workspace: Path, making: Making) -> Job:
    workspace.mkdir()
    return Job.open(load_spec(project.spec_path), workspace, Reporter(Console(quiet=True)), making.earlier)


def test_it_is_what_the_run_measured(finished: Project, making: Making) -> None:
    with closing(sqlite3.connect(finished.study_db)) as connection:
        measured = {
            key: json.loads(value) for key, value in connection.execute("select key, value_json from study_user_attributes")
        }
    made = dict(making.earlier.records)
    assert {key for key in measured if not key.startswith("bundle/")} == made.keys()
    assert made == {key: measured[key] for key in made}
    assert [trial.number for trial in making.earlier.trials] == list(range(NUM_TRIALS))
    assert json.dumps(recorded(finished, "texts/sampled")) in json.dumps(list(made.values()))


def test_a_run_that_begins_from_a_bundle_measures_nothing(finished: Project, making: Making, tmp_path: Path) -> None:
    job = opened(finished, tmp_path / "out.work", making)
    before = json.loads((finished.bundle / "evaluation.json").read_bytes())
    forged = forge(job)
    assert dict(forged.records).keys() == making.earlier.records.keys()
    assert not Ledger(f"sqlite:///{tmp_path}/out.work/study.db", job.spec.name).records, "nothing new was written"
    assert num_trials(tmp_path / "out.work" / "study.db") == NUM_TRIALS
    assert forged.proven.trial.number == before["bundle"]["trial"]
    assert fingerprint_of(job) == dict(making.fingerprint)


def test_another_seed_tries_what_was_chosen_first(finished: Project, making: Making, tmp_path: Path) -> None:
    changed = Project(tmp_path / "changed")
    changed.folder.mkdir()
    shutil.copytree(finished.folder / "tiny", changed.folder / "tiny")
    changed.write({"seed": 1, "search": {"trials": 1}}, SCHEMES)
    searched = forge(opened(changed, tmp_path / "out.work", making)).searched
    assert searched.study != making.earlier.study
    chosen = making.earlier.trials[making.earlier.chosen]
    plans = [{g: t.choice[name] for name, groups in bands.items() for g in groups}
             for t, bands in ((chosen, making.earlier.bands),
                              (searched.trials[0], {band.name: band.groups for band in searched.bands}))]  # fmt: skip
    assert plans[0] == plans[1]


def test_an_earlier_choice_on_bands_that_changed() -> None:
    choice = {"a": "int8", "b": "fp32", "kv_cache": "fp32"}
    trial = Trial(0, choice, 1.0, 0.0, -1.0)
    earlier = Earlier({}, "study", {"a": ["layers.0.o", "layers.1.o"], "b": ["layers.2.o"]}, [trial], 0)
    both = (Scheme("fp32"), Scheme("int8"))
    one = Band("x", ("layers.0.o", "layers.1.o", "layers.2.o"), both)
    assert earlier.warm_starts([one], ["fp32"])[0] == {"x": "int8", "kv_cache": "fp32"}
    assert earlier.warm_starts([Band("x", one.groups, both[:1])], ["fp32"]) == [], "int8 is not offered any more"
    assert earlier.warm_starts([one], ["int8"]) == []
