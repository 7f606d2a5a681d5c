"""Every option of `coldforge evaluate` changes what is asked, held against or written."""

from __future__ import annotations

import json
from pathlib import Path

from tests.optimizer.assessment.conftest import Evaluate, Stranger
from tests.options import assert_listed

#: in the order of --help; what each changes is shown below
EVALUATE = {"--sets", "--against", "--model", "--against-model", "--api-key", "--against-api-key", "--json"}
ANSWER = {"data": [{"id": "a"}, {"id": "b"}], "choices": [{"text": "x", "index": 0, "finish_reason": "stop"}]}


def test_every_option_is_listed() -> None:
    assert_listed("evaluate", {"target", *EVALUATE})


def test_sets_against_and_json(evaluate: Evaluate, folder: Path, tmp_path: Path) -> None:
    alone = evaluate(folder / "good", "--json", tmp_path / "alone.json")
    beside = evaluate(folder / "good", "--against", folder / "good", "--json", tmp_path / "beside.json")
    fewer = evaluate(folder / "good", sets={"evaluation": {"sets": [{"path": "pick.jsonl", "format": "multiple_choice"}]}})
    assert alone.exit_code == beside.exit_code == fewer.exit_code == 0
    assert "prose" in alone.output and "prose" not in fewer.output
    told = [json.loads((tmp_path / name).read_text()) for name in ("alone.json", "beside.json")]
    assert told[0]["against"] is None and told[1]["against"] == str(folder / "good")


def test_a_model_and_a_key_for_each_endpoint(evaluate: Evaluate, stranger: Stranger, tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_text(json.dumps({"question": "1 and 1?", "answer": "#### 2"}) + "\n")
    sets = {"evaluation": {"sets": [{"path": str(tmp_path / "sums.jsonl"), "format": "gsm8k"}]}}
    keys: tuple[list[str | None], list[str | None]] = ([], [])
    one, other = (stranger(200, json.dumps(ANSWER).encode(), shown) for shown in keys)
    line = (
        one,
        "--model",
        "a",
        "--api-key",
        "first",
        "--against",
        other,
        "--against-model",
        "b",
        "--against-api-key",
        "second",
    )
    result = evaluate(*line, sets=sets)
    assert result.exit_code == 1 and "inconclusive" in result.output, result.output
    assert set(keys[0]) == {"Bearer first"} and set(keys[1]) == {"Bearer second"}
    assert "2 models: a, b; name one with --model" in evaluate(one, sets=sets).output
    named = (one, "--model", "a", "--against", other, "--against-model", "c")
    assert "has the models a, b, not 'c'" in evaluate(*named, sets=sets).output
