"""Stages called alone, without the run that usually calls them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tokenizers import Tokenizer

from optimizer.measure.workbench import Workbench
from optimizer.records.progress import Reporter
from optimizer.search.items import source_prompts
from optimizer.search.proof import NothingPasses
from optimizer.spec import load_spec
from optimizer.stages.accuracy import KvCacheStage, SensitivityStage, judge_on
from optimizer.stages.job import Job
from optimizer.stages.texts import SAMPLED, TextStage
from optimizer.stages.weights import WeightStage
from tests.optimizer.conftest import MakeProject


@pytest.fixture
def job(project: MakeProject, tmp_path: Path) -> Job:
    made = project()
    workspace = tmp_path / "out.work"
    workspace.mkdir()
    return Job.open(load_spec(made.spec_path), workspace, Reporter(Console(quiet=True)))


@pytest.fixture
def workbench(job: Job) -> Workbench:
    return job.target.workbench(job.original)


def test_texts_are_sampled_once(job: Job, workbench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = TextStage(job, source_prompts(job.source), workbench)
    texts = stage.run()
    search, proof = texts.search[SAMPLED], texts.proof[SAMPLED]
    assert texts.own == {SAMPLED} and [look.size for look in proof.looks] == [4, 8, 16]
    first, second, third = (proof.sequences(start, stop) for start, stop in ((0, 4), (4, 8), (8, 16)))
    every = [*search, *first, *second, *third]
    assert first == proof.first and [len(ids) for ids in every] == 20 * [32]
    assert len({tuple(ids) for ids in every}) == 20, "no trial has seen what is proved on, and no look hears a text again"
    assert proof.sequences(2, 8) == [*first[2:], *second]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("what is a record is not sampled again")

    monkeypatch.setattr(type(workbench), "runner", refuse)
    again = stage.run()
    assert again.search == texts.search and again.proof[SAMPLED].sequences(0, 4) == first
    assert again.proof[SAMPLED].sequences(4, 8) == second
    with pytest.raises(AssertionError, match="sampled again"):
        replace(stage, job=replace(job, spec=job.spec.model_copy(update={"seed": 1}))).run()


def test_weights_ask_for_calibration_only_where_something_is_calibrated(job: Job) -> None:
    def sequences() -> Sequence[Sequence[int]]:
        raise AssertionError("asked")

    assert WeightStage(job, sequences).run().method.name == "rtn"
    quantization = job.spec.quantization.model_copy(update={"clip": True})
    clipped = replace(job, spec=job.spec.model_copy(update={"quantization": quantization}))
    with pytest.raises(AssertionError, match="asked"):
        WeightStage(clipped, sequences).run()
    assert WeightStage(clipped, lambda: [[5, 6, 7, 8] * 4]).run().method.name == "rtn+clip"


def test_losses_are_of_the_texts_they_are_asked_for(job: Job, workbench: Workbench) -> None:
    texts = {"a": [[3, 4, 5, 6] * 4] * 4, "b": [[9, 8, 7, 6] * 4] * 4}
    judges = {name: judge_on(job, workbench, {name: sequences}) for name, sequences in texts.items()}
    found = {name: SensitivityStage(job, judge).run() for name, judge in judges.items()}
    assert found["a"].keys() == job.lossless.keys() and found["a"] != found["b"]
    assert SensitivityStage(job, judges["a"]).run() == found["a"]
    assert list(KvCacheStage(job, judges["a"]).run()) == ["fp32"]


def test_no_kv_cache_within_the_gate_ends_the_run(job: Job, workbench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = judge_on(job, workbench, {"text": [[3, 4, 5, 6] * 4] * 4})
    strict = replace(job, spec=job.spec.model_copy(update={"gate": job.spec.gate.model_copy(update={"max_kl": 1e-12})}))
    monkeypatch.setattr(type(job.target), "kv_dtypes", lambda self, architecture: ("int8",))
    with pytest.raises(NothingPasses, match="no KV cache on offer leaves room"):
        KvCacheStage(strict, judge).run()


@pytest.mark.parametrize("what", ["evaluation", "calibration"])
def test_a_text_may_not_have_a_token_that_the_model_has_no_row_for(
    what: str, project: MakeProject, tiny_llama: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_llama, tmp_path / "source")
    path = tmp_path / "source" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_tokens([f"<added {i}>" for i in range(512)])
    tokenizer.save(str(path))
    (tmp_path / "text").write_text("all of it <added 511> " * 200)
    made = (
        project(source="source", evaluation={"text": ["text"], "tokens_per_sequence": 32})
        if what == "evaluation"
        else project(source="source", quantization={"method": "gptq", "calibration": {"text": ["text"]}})
    )
    result = made.optimize()
    assert result.exit_code == 1 and "token ids must be below" in result.output and not (tmp_path / "out").exists()
