"""A record is kept under what its value depends on: what a key of model.yaml changes is measured again, and nothing else."""

from __future__ import annotations

import copy
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from artifacts.architecture import Architecture
from optimizer.records.record_key import record_key
from tests.optimizer.conftest import SCHEMES, Project, small_space

#: records that follow from no plan that happened to win
STAGES = ("texts/sampled", "texts/calibration", "kernels", "cost", "sensitivity/kv_cache", "sensitivity", "precision")
CALIBRATION = {"num_sequences": 2, "tokens_per_sequence": 16}
EVALUATION = {"num_sequences": 4, "tokens_per_sequence": 32}
RETRIEVAL = {"format": "retrieval", "margin": 0.5, "context_tokens": [96]}
WORKLOAD = {"prompt_tokens": 32, "output_tokens": 16}
ACCURACY = {"sensitivity/kv_cache", "sensitivity", "precision"}

#: what changes in model.yaml -> the stages that measure something again. `name`, `source` and `target` are in all of them
CHANGES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "quantization.method": (
        {"quantization": {"method": "gptq", "calibration": CALIBRATION}},
        {"texts/calibration", "sensitivity", "precision"},
    ),
    "quantization.clip": (
        {"quantization": {"clip": True, "calibration": CALIBRATION}},
        {"texts/calibration", "sensitivity", "precision"},
    ),
    "quantization.transform": ({"quantization": {"transform": "rotation"}}, ACCURACY),
    "evaluation.num_sequences": ({"evaluation": EVALUATION | {"num_sequences": 5}}, {"texts/sampled"} | ACCURACY),
    "evaluation.tokens_per_sequence": ({"evaluation": EVALUATION | {"tokens_per_sequence": 24}}, {"texts/sampled"} | ACCURACY),
    "evaluation.max_sequences": ({"evaluation": EVALUATION | {"max_sequences": 9}}, {"precision"}),
    "evaluation.text": ({"evaluation": EVALUATION | {"text": ["prose.txt"]}}, ACCURACY),
    "evaluation.sets": (
        {"evaluation": EVALUATION | {"sets": [{"format": "retrieval", "margin": 0.5, "context_tokens": [96]}]}},
        set(),
    ),
    "seed": ({"seed": 1}, {"texts/sampled"} | ACCURACY),
    "gate.max_kl": ({"gate": {"max_kl": 0.06}}, {"precision"}),
    "gate.min_top1_agreement": ({"gate": {"max_kl": 0.05, "min_top1_agreement": 0.01}}, {"precision"}),
    "workload.prompt_tokens": ({"workload": WORKLOAD | {"prompt_tokens": 48}}, {"kernels", "cost", "precision"}),
    "workload.output_tokens": ({"workload": WORKLOAD | {"output_tokens": 24}}, {"kernels", "cost", "precision"}),
    "workload.concurrency": ({"workload": WORKLOAD | {"concurrency": 2}}, {"kernels", "cost", "precision"}),
    "workload.itl_ms": ({"workload": WORKLOAD | {"itl_ms": 1000}}, set()),
    "generation.temperature": ({"generation": {"temperature": 0.5}}, set()),
    "answers.tools": ({"answers": {"tools": "hermes"}}, set()),
    "search.choice": ({"search": {"choice": "most_accurate"}}, set()),
    "output": ({"output": "elsewhere/out"}, set()),
}
FAST = {"quantization.method"}


def records(study_db: Path) -> dict[str, set[str]]:
    """Stage -> the keys of its records; of the precision search the studies."""
    with closing(sqlite3.connect(study_db)) as connection:
        keys = [key for (key,) in connection.execute("select key from study_user_attributes")]
        keys += [name.partition("/")[2] for (name,) in connection.execute("select study_name from studies")]
    found: dict[str, set[str]] = {stage: set() for stage in STAGES}
    for key in keys:
        stage = next((stage for stage in STAGES if key.startswith(f"{stage}/")), "others")
        found.setdefault(stage, set()).add(key)
    return found


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CHANGES])
def test_what_a_key_changes_is_measured_again_and_nothing_else(finished: Project, tmp_path: Path, name: str) -> None:
    again = Project(tmp_path / "again")
    shutil.copytree(finished.folder, again.folder)
    (again.folder / "prose.txt").write_text(
        "the quick brown fox jumps over the lazy dog while five wizards vex bold quilts " * 12
    )
    changes, expected = CHANGES[name]
    before = records(again.study_db)
    again.write(copy.deepcopy(changes), SCHEMES)
    storage = ("--storage", again.storage) if name == "output" else ()
    result = again.optimize(*storage)
    assert result.exit_code == 0, result.output
    after = records(again.study_db)
    measured = {stage for stage in STAGES if after[stage] - before[stage]}
    assert measured == expected
    assert all(len(after[stage] - before[stage]) == len(before[stage]) for stage in expected - {"texts/calibration"})


@pytest.mark.slow
def test_a_kv_cache_more_measures_what_it_costs_and_loses(finished: Project, tmp_path: Path) -> None:
    again = Project(tmp_path / "again")
    shutil.copytree(finished.folder, again.folder)
    before, space = records(again.study_db), small_space(SCHEMES)
    space["precision"]["kv_cache"] = ["fp32", "int8"]
    (again.folder / "space.json").write_text(json.dumps(space))
    assert again.optimize().exit_code == 0
    new = {stage: keys - before[stage] for stage, keys in records(again.study_db).items()}
    assert [key.rpartition("/")[0] for key in new["sensitivity/kv_cache"]] == ["sensitivity/kv_cache/int8"]
    assert [key.rpartition("/")[0] for key in new["cost"]] == ["cost/kv_cache"]
    assert new["precision"] and not new["kernels"] and not new["sensitivity"] and not new["texts/sampled"]


def test_a_key_names_its_inputs_whatever_their_order() -> None:
    architecture = Architecture(
        family="llama", vocab_size=32, hidden_size=32, intermediate_size=32, num_layers=1, num_q_heads=2, num_kv_heads=2,
        head_dim=16, max_position=64, rms_norm_eps=1e-5,
    )  # fmt: skip
    key = record_key("cost/int8", a=1, of=architecture)
    assert key.startswith("cost/int8/") and key == record_key("cost/int8", of=architecture.model_copy(), a=1)
    assert key != record_key("cost/int8", a=1, of=architecture.model_copy(update={"num_layers": 2}))
    assert key != record_key("cost/int8", b=1, of=architecture)
    with pytest.raises(TypeError, match="plain data, got object"):
        record_key("cost/int8", of=object())
