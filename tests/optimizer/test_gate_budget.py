"""A run whose gate a few sequences cannot decide: more are heard, up to the budget, and nothing is measured twice."""

from __future__ import annotations

import copy
import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from tests.optimizer.conftest import MakeProject, Project

EVALUATION = {"num_sequences": 4, "tokens_per_sequence": 32}
ONE = {"schemes": ["int8"], "search": {"trials": 1}}


def keys(made: Project, stage: str) -> set[str]:
    with closing(sqlite3.connect(made.study_db)) as connection:
        every = connection.execute("select key from study_user_attributes").fetchall()
    return {key for (key,) in every if key.startswith(f"{stage}/")}


def with_limit(made: Project, max_kl: float, **evaluation: int) -> None:
    description: dict[str, Any] = copy.deepcopy(json.loads(made.spec_path.read_text()))
    description["gate"], description["evaluation"] = {"max_kl": max_kl}, EVALUATION | evaluation
    made.spec_path.write_text(json.dumps(description))


@pytest.mark.slow
def test_sequences_are_added_until_the_gate_is_decided(project: MakeProject) -> None:
    made = project(gate={"max_kl": 0.5}, evaluation=EVALUATION, **ONE)
    assert made.optimize().exit_code == 0
    first = json.loads((made.bundle / "evaluation.json").read_text())["sets"]["sampled"]
    assert first["num_sequences"] == 4 and first["stopped"] == "every limit is met" and not keys(made, "texts/proof")
    (scored,) = keys(made, "proof")

    # Not so close that sixteen sequences would leave it open, and closer than four can tell.
    with_limit(made, 0.5 * (first["kl"]["value"] + first["kl"]["high"]))
    result = made.optimize()
    assert result.exit_code == 0, result.output
    record = json.loads((made.bundle / "evaluation.json").read_text())["sets"]["sampled"]
    assert record["num_sequences"] > 4 and record["max_sequences"] == 16 and record["stopped"] == "every limit is met"
    assert [look["outcomes"]["kl"] for look in record["looks"]] == ["inconclusive"] * (len(record["looks"]) - 1) + ["pass"]
    assert f"on {record['num_sequences']} sequences" in result.output
    assert len(keys(made, "texts/proof")) == len(keys(made, "proof")) - 1 == len(record["looks"]) - 1
    assert scored in keys(made, "proof"), "what was scored is not scored again"
    assert "every limit is met" in (made.bundle / "report.html").read_text()

    before = {path: path.read_bytes() for path in made.bundle.rglob("*") if path.is_file()}
    assert made.optimize().exit_code == 0
    assert {path: path.read_bytes() for path in made.bundle.rglob("*") if path.is_file()} == before

    # The same plan and gate within a budget of four: it stays open, and what is open does not pass.
    with_limit(made, 0.5 * (first["kl"]["value"] + first["kl"]["high"]), max_sequences=4)
    refused = made.optimize()
    assert refused.exit_code == 3, refused.output
    assert "undecided; about" in refused.output and "raise evaluation.max_sequences" in refused.output
    assert {path: path.read_bytes() for path in made.bundle.rglob("*") if path.is_file()} == before
