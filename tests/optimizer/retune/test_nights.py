"""Nights on a tiny model: what has changed, what is measured again, and what is promoted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from artifacts.reader import read_manifest, verify_bundle
from artifacts.weights import map_tensors, write_shard
from kernels.cpu.build import compiler_flags
from optimizer.bundle.making import Making
from optimizer.nights.gathering import nights_of_name
from optimizer.nights.night import Night
from optimizer.retune.summary import summary
from tests.optimizer.conftest import SCHEMES, count
from tests.optimizer.retune.conftest import NAME, Nights

#: another plan, and a gate that four short texts can tell by
MOST_ACCURATE = {"search": {"choice": "most_accurate", "trials": 4}, "gate": {"max_kl": 0.05, "max_perplexity_increase": 0.5}}


def num_measured(nights: Nights, folder: str = "night") -> int:
    """Records and trials that the night's own run has made, beside those that the incumbent carried."""
    return count(
        nights.project.folder / folder / "candidate.work" / "study.db",
        "select count(*) from study_user_attributes a join studies s using (study_id) "
        "where s.study_name like '%/records' and s.study_name not like '%/nights/%' and a.key not like 'bundle/%'",
    )


def test_a_night_on_which_nothing_has_changed(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    before = nights.production
    monkeypatch.setattr("optimizer.retune.night.forge", None)
    night = nights.run()
    assert (night.verdict, night.why, night.changes) == ("kept", "nothing has changed", ())
    assert night.proof == "the same bits: sampled as at its making, to 9 digits"
    assert night.records_void == 0 and night.records_reused > 20
    assert nights.production == before and nights.clock.measured == []
    assert nights_of_name(nights.registry, NAME) == [night], "a night that keeps is in the history too"
    assert nights.registry.events()[-1].why == "kept: nothing has changed"
    folder = nights.project.folder / "night"
    assert Night.model_validate_json((folder / "result.json").read_bytes()) == night
    assert (folder / "summary.md").read_text().startswith("## tiny: kept\n\nnothing has changed.\n")
    assert not (folder / "candidate").exists()


@pytest.mark.parametrize(("ms", "noise", "verdict", "why"), [
    (10.0, 0.01, "kept", "the candidate is not faster: "),
    pytest.param(10.0, 1.0, "inconclusive", "too noisy to tell: ", marks=pytest.mark.slow),
    pytest.param(9.5, 0.01, "kept", "the candidate is not faster: ", marks=pytest.mark.slow),
])  # fmt: skip
def test_no_other_plan_is_promoted(nights: Nights, ms: float, noise: float, verdict: str, why: str) -> None:
    before = nights.production
    nights.project.write(dict(MOST_ACCURATE), SCHEMES)
    nights.clock.ms[before], nights.clock.noise = ms, noise
    night = nights.run()
    assert night.verdict == verdict and night.why.startswith(why), night.why
    assert nights.production == before and nights.registry.events()[-1].action == "retune"


@pytest.mark.slow
def test_texts_that_are_too_few_to_tell_promote_nothing(nights: Nights) -> None:
    before = nights.production
    nights.project.write({"search": {"choice": "most_accurate"}}, SCHEMES)
    night = nights.run()
    assert night.verdict == "inconclusive" and nights.production == before
    assert night.why.startswith("that the candidate is no worse is not shown: sampled, against the incumbent: perplexity"), (
        night.why
    )


def test_another_checkpoint_is_promoted_if_it_is_no_slower(nights: Nights) -> None:
    before = nights.production
    (path,) = nights.project.folder.glob("tiny/*.safetensors")
    tensors = {name: array.copy() for name, array in map_tensors(path).items()}
    tensors["model.norm.weight"] *= 1.01
    with path.open("wb") as file:
        write_shard(file, tensors)
    nights.clock.ms[before] = 9.9
    night = nights.run()
    assert night.verdict == "promoted" and "not what model.yaml asks for any more" in night.why, night.why
    assert night.candidate == nights.production != before
    assert {change.voids for change in night.changes} == {("codes", "accuracy")}
    assert night.proof is not None and "have changed: checkpoint: model.safetensors" in night.proof
    assert verify_bundle(nights.registry.folder(nights.production)).provenance.sources["model.safetensors"] != ""


def test_an_incumbent_outside_the_gate_of_today(nights: Nights) -> None:
    before = nights.production
    nights.project.write({"gate": {"max_kl": 1e-9}}, ["int8"])
    night = nights.run()
    assert night.verdict == "regressed" and night.why.startswith("on sampled: kl 0.0"), night.why
    assert "no candidate is within the gate" in night.why and nights.production == before


def test_a_compiler_flag_more_voids_numbers_and_times(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag is told and not given, so that nothing is compiled: the candidate is the incumbent, or as good as it."""
    before = nights.production
    monkeypatch.setattr("optimizer.measure.machine.compiler_flags", lambda isa: (*compiler_flags(isa), "-fnew"))
    night = nights.run()
    assert [(change.name, change.voids) for change in night.changes] == [("compiler_flags", ("accuracy", "times"))]
    assert night.records_reused == 0 and num_measured(nights) >= night.records_void
    assert night.proof is not None and night.proof.startswith("the same bits")
    assert night.verdict in ("kept", "inconclusive") and nights.production == before


def test_another_plan_is_promoted_if_it_is_faster_and_a_replay_writes_the_same_bytes(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first run measured is replayed: the second cannot measure a block."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1764554400")
    incumbent = nights.production
    nights.project.write(dict(MOST_ACCURATE), SCHEMES)
    nights.clock.ms[incumbent] = 10.6
    history = nights.registry.root.with_name("history")
    shutil.copytree(nights.registry.root, history)
    night = nights.run()
    assert night.verdict == "promoted" and night.why.startswith("the candidate is faster: 1.0"), night.why
    assert {change.name: change.voids for change in night.changes} == {
        "model.yaml: search.choice": (),
        "model.yaml: search.trials": (),
        "model.yaml: gate.max_perplexity_increase": (),
    }
    assert night.candidate == nights.production != incumbent and night.time == "2025-12-01T02:00:00Z"
    assert night.records_void < 15, "what no plan shares: steps and speeds of the one that was taken"
    assert len(night.noise["workload"].log_ratios) == 8
    assert {"sampled", "sampled, gate", "sampled, against the incumbent"} == set(night.accuracy)
    event = nights.registry.events()[-1]
    assert (event.action, event.replaces) == ("promote", incumbent) and nights_of_name(nights.registry, NAME) == [night]
    nights.registry.verify()

    first = {name: path.read_bytes() for name, path in files(nights).items()}
    shutil.rmtree(nights.registry.root)
    shutil.copytree(history, nights.registry.root)
    monkeypatch.setattr(type(nights.clock), "__call__", None)
    assert nights.run() == night
    assert first == {name: path.read_bytes() for name, path in files(nights).items()}
    assert {"result.json", "summary.md", "candidate/manifest.json", "history.jsonl"} <= first.keys()

    def moved_meanwhile(*given: Any) -> str:
        monkeypatch.setattr("optimizer.retune.command.summary", summary)
        nights.registry.rollback(NAME, why="by hand")
        return summary(*given)

    nights.registry.promote(NAME, incumbent, why="again")
    monkeypatch.setattr("optimizer.retune.command.summary", moved_meanwhile)
    night = nights.run()
    assert night.verdict == "inconclusive" and f"but the name stays: {NAME} must still mean {incumbent}" in night.why
    assert nights.production != incumbent and nights_of_name(nights.registry, NAME)[-1] == night


def files(nights: Nights) -> dict[str, Path]:
    folder = nights.project.folder / "night"
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    own = {name: path for name, path in found.items() if not name.startswith("candidate.work")}
    return own | {"history.jsonl": nights.registry.root / "history.jsonl"}


@pytest.mark.slow
def test_a_bundle_without_its_records_begins_from_scratch(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Making, "read", classmethod(lambda cls, folder, manifest: None))
    night = nights.run()
    assert (night.records_reused, night.records_void) == (0, 0) and night.verdict in ("kept", "inconclusive")
    assert any("does not carry the records of its making" in line for line in nights.said)


def test_a_damaged_incumbent_fails(nights: Nights) -> None:
    path = nights.registry.folder(nights.production) / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    night = nights.run()
    assert night.verdict == "failed" and "tokenizer.json" in night.why and night.fingerprint == {}


def test_the_speed_against_a_reference_falls(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    """The incumbent is 2 x the reference on a first night, and 7 % less on a second."""
    reference = nights.registry.root.with_name("reference")
    shutil.copytree(nights.project.bundle, reference)
    manifest = json.loads((reference / "manifest.json").read_bytes())
    other = reseal(reference, manifest | {"name": "reference"})
    nights.clock.ms = {other: 20.0, nights.production: 10.0}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1764554400")
    first = nights.run(reference=str(reference))
    assert first.verdict == "kept" and 1.9 < first.against_reference["workload"].value < 2.1
    nights.clock.ms[nights.production] = 10.8
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1764640800")  # a day later: another night
    second = nights.run(reference=str(reference))
    assert second.verdict == "regressed" and "its speed against the reference is 1." in second.why, second.why


def reseal(folder: Path, content: dict[str, Any]) -> str:
    """The bundle with another description; its digest."""
    from artifacts.manifest import Deployment, FileRecord, Manifest

    parts = {name: value for name, value in content.items() if name not in ("files", "digest", "format_version")}
    records = {name: FileRecord(**record) for name, record in content["files"].items()}
    manifest, data = Manifest.seal(Deployment.model_validate_json(json.dumps(parts)), records)
    (folder / "manifest.json").write_bytes(data)
    assert read_manifest(folder) == manifest
    return manifest.digest


def test_without_a_device_nothing_is_promoted(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    before = nights.production
    monkeypatch.setattr("optimizer.targets.cpu.CpuTarget.evaluated", "emulated")
    nights.project.write(dict(MOST_ACCURATE), SCHEMES)
    nights.clock.ms[before] = 20.0
    night = nights.run()
    assert (night.verdict, night.why) == ("inconclusive", "no device measures here, and modelled times promote nothing")
    assert night.proof is not None and night.proof.startswith("not repeated: a GPU's accuracy is an emulation's")
    assert nights.production == before and nights.clock.measured == []
    told = (nights.project.folder / "night" / "summary.md").read_text()
    assert "### Plan: incumbent and candidate" in told and "### Speed: incumbent and candidate" in told
