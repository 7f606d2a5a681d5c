"""The bundle: what is in it, and that the same study gives the same bytes wherever and whenever it is written."""

from __future__ import annotations

import json
import re
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from artifacts.architecture import Architecture
from artifacts.manifest import Manifest
from artifacts.precision import Scheme
from artifacts.reader import verify_bundle
from kernels.cpu.build import find_compiler
from optimizer.importers import open_source
from tests.optimizer.conftest import NUM_TRIALS, SCHEMES, Project, num_records
from tests.tiny_models import TEMPLATE


def contents(bundle: Path) -> dict[str, bytes]:
    return {str(path.relative_to(bundle)): path.read_bytes() for path in sorted(bundle.rglob("*")) if path.is_file()}


def read(project: Project, name: str) -> Any:
    return json.loads((project.bundle / name).read_text())


def trials_of(project: Project) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project.bundle / "search/trials.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def manifest(finished: Project) -> Manifest:
    return verify_bundle(finished.bundle)


@pytest.fixture(scope="module")
def architecture(finished: Project) -> Architecture:
    return open_source(finished.folder / "tiny").architecture


def test_it_holds_what_the_format_says(manifest: Manifest) -> None:
    assert set(manifest.files) == {
        "chat_template.jinja", "evaluation.json", "generation_config.json", "kernels/cpu.so", "report.html",
        "search/fingerprint.json", "search/kernels.json", "search/records.json", "search/sensitivities.json",
        "search/trials.jsonl", "self_test.json", "tokenizer.json", "weights/model.safetensors",
    }  # fmt: skip


def test_every_layer_group_has_a_scheme_that_the_space_offers(manifest: Manifest, architecture: Architecture) -> None:
    assert list(manifest.precision.groups) == sorted(architecture.linear_shapes())
    assert set(manifest.precision.groups.values()) <= set(SCHEMES)


def test_the_kernel_constants_are_those_that_were_chosen(finished: Project, manifest: Manifest) -> None:
    (kernels,) = manifest.kernels
    tuned = {entry["subject"]: entry for entry in read(finished, "search/kernels.json")}
    assert set(tuned) == {"paged_attention", "quant_matmul", "kv_block_size", "num_threads"}
    chosen = tuned["paged_attention"]["chosen"] | tuned["quant_matmul"]["chosen"]
    assert kernels.constants == chosen
    assert manifest.serving.kv_block_size == tuned["kv_block_size"]["chosen"]["kv_block_size"]
    threads = tuned.pop("num_threads")
    assert threads["chosen"]["num_threads"] == manifest.serving.num_threads
    for entry in tuned.values():
        assert len(entry["ms"]) == len(entry["candidates"])
        # What a candidate differs from itself, on a machine with other work, decides nothing.
        tie = max(0.05, entry["noise"])
        assert entry["ms"][entry["candidates"].index(entry["chosen"])] <= (1 + tie) * min(entry["ms"])
    assert kernels.compiler == find_compiler().version


def test_provenance_names_every_input(finished: Project, manifest: Manifest) -> None:
    names = {path.name for path in (finished.folder / "tiny").iterdir()}
    assert set(manifest.provenance.sources) == names
    assert set(manifest.provenance.libraries) == {"numpy", "optuna", "torch"}


def test_the_tokenizer_and_the_template_are_the_models(finished: Project) -> None:
    ours = Tokenizer.from_file(str(finished.bundle / "tokenizer.json"))
    theirs = Tokenizer.from_file(str(finished.folder / "tiny" / "tokenizer.json"))
    text = "<|user|>naïve 😀 42</s>"
    assert ours.encode(text).ids == theirs.encode(text).ids
    assert (finished.bundle / "chat_template.jinja").read_text() == TEMPLATE


def test_trials(finished: Project) -> None:
    trials = trials_of(finished)
    assert [trial["number"] for trial in trials] == list(range(NUM_TRIALS))
    assert len({json.dumps(trial["choice"], sort_keys=True) for trial in trials}) == NUM_TRIALS, "no plan is tried twice"
    feasible = [trial for trial in trials if trial["violation"] <= 0]
    (chosen,) = [trial for trial in trials if trial["chosen"]]
    assert chosen["on_front"]
    assert chosen["latency_ms"] == min(trial["latency_ms"] for trial in feasible)
    for trial in feasible:
        dominated = any(
            other["latency_ms"] <= trial["latency_ms"] and other["kl"] <= trial["kl"] and other != trial for other in feasible
        )
        assert trial["on_front"] != dominated


def test_the_plan_is_the_chosen_trials(finished: Project, manifest: Manifest) -> None:
    (chosen,) = [trial for trial in trials_of(finished) if trial["chosen"]]
    by_kind: dict[str, set[str]] = {}
    for band, scheme in chosen["choice"].items():
        by_kind.setdefault(band.partition(".")[0], set()).add(scheme)
    for group, scheme in manifest.precision.groups.items():
        assert scheme in by_kind[group.rpartition(".")[2]]


def test_evaluation(finished: Project, manifest: Manifest, architecture: Architecture) -> None:
    evaluation = read(finished, "evaluation.json")
    assert evaluation["passed"] is True
    assert evaluation["gate"] == {"max_kl": 0.05}
    assert evaluation["workload"] == {"prompt_tokens": 32, "output_tokens": 16, "concurrency": 1}
    assert evaluation["baseline"]["scheme"] == "fp32"
    (kl,) = [record["kl"] for record in evaluation["sets"].values()]
    assert 0 <= kl["low"] <= kl["value"] <= kl["high"] <= 0.05
    for phase in ("decode", "prefill"):
        speed = evaluation["speed"][phase]
        assert speed["speedup"]["low"] <= speed["speedup"]["value"] <= speed["speedup"]["high"]
        assert speed["speedup"]["value"] == pytest.approx(speed["baseline_ms"] / speed["candidate_ms"], rel=0.5)
    shapes = architecture.linear_shapes()
    bits = sum(n * k * Scheme.parse(manifest.precision.groups[g]).bits_per_weight for g, (n, k) in shapes.items())
    assert evaluation["bundle"]["weight_bytes"] == pytest.approx(bits / 8, rel=0.1)  # rows are padded to 16; gains; scales


def test_sensitivities_cover_every_group(finished: Project, architecture: Architecture) -> None:
    sensitivities = read(finished, "search/sensitivities.json")
    assert set(sensitivities) == set(architecture.linear_shapes())
    assert all(kl >= 0 for measured in sensitivities.values() for kl in measured.values())


def test_the_report_shows_the_choice_and_asks_nobody(finished: Project) -> None:
    report = (finished.bundle / "report.html").read_text()
    (chosen,) = [trial for trial in trials_of(finished) if trial["chosen"]]
    assert f"trial {chosen['number']}" in report.lower()
    assert not re.search(r"(?:src|href)=[\"']?https?:", report)


def test_nothing_says_where_or_when_it_was_made(finished: Project) -> None:
    places = [str(finished.folder), tempfile.gettempdir(), str(Path(__file__).parents[2])]
    if len(socket.gethostname()) > 5:  # a short one may stand in any binary by chance
        places.append(socket.gethostname())
    for name, data in contents(finished.bundle).items():
        for place in places:
            assert place.encode() not in data, f"{name} holds {place}"
        assert not re.search(rb"20\d\d-[01]\d-[0-3]\d", data), name


def test_written_again_it_is_the_same_to_the_byte_and_nothing_is_measured(finished: Project, tmp_path: Path) -> None:
    before, known = contents(finished.bundle), num_records(finished.study_db)
    again = Project(tmp_path / "again")
    shutil.copytree(finished.folder, again.folder)
    result = again.optimize()
    assert result.exit_code == 0, result.output
    assert contents(again.bundle) == before, "over the bundle that is there"
    shutil.rmtree(again.bundle)
    again.optimize()
    assert contents(again.bundle) == before, "after it was deleted"
    assert num_records(again.study_db) == known


def test_another_output_with_the_same_storage_gets_the_same_bytes(finished: Project, tmp_path: Path) -> None:
    storage = tmp_path / "study.db"
    shutil.copyfile(finished.study_db, storage)
    known = num_records(storage)
    result = finished.optimize("-o", str(tmp_path / "elsewhere"), "--storage", f"sqlite:///{storage}")
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "elsewhere") == contents(finished.bundle)
    assert num_records(storage) == known
