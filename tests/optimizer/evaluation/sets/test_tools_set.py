"""The `tools` format: what is asked is what the server asks, what is read is what it reads, marks are BFCL's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from artifacts.errors import UserError
from benchmarks.tool_questions import KINDS, questions, write_questions
from optimizer.assessment.endpoint import EndpointContender
from optimizer.evaluation import Subject, compare_on, open_set
from optimizer.evaluation.sets.tools import Tools
from optimizer.spec import SetSpec
from runtime.chat import ChatTemplate
from runtime.engine_core import EngineCore
from runtime.prompts import Prompts
from tests.server.conftest import make_tokenizer, running
from tests.server.speaking import HERMES_TEMPLATE, SpeakingRunner
from tests.server.tool_requests import TIME, WEATHER

TOOLS = [WEATHER, TIME]
ITEM = {"id": "0", "question": "Rome?", "tools": TOOLS, "expected": {"name": "get_weather", "arguments": {"city": ["Rome"]}}}


def call(name: str, arguments: object) -> dict[str, str]:
    return {"name": name, "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)}


def prompts() -> Prompts:
    return Prompts(make_tokenizer(), ChatTemplate(HERMES_TEMPLATE, bos_token="<s>", eos_token="</s>"))


def scores(expected: object, *calls: dict[str, str]) -> tuple[float, float, float]:
    item = ITEM | {"expected": expected}
    marked = Tools("tools", [item]).mark(item, [json.dumps(calls)], prompts()).scores
    return marked["call"], marked["function"], marked["arguments"]


@pytest.mark.parametrize(
    ("right", "arguments", "is_right"),
    [
        ({"city": ["Rome"], "days": [3]}, {"days": 3, "city": "Rome"}, True),
        ({"city": ["Rome"], "days": [3]}, {"city": "Rome", "days": 3.0}, True),
        ({"city": ["Rome"], "days": [3]}, {"city": "Rome", "days": "3"}, False),
        ({"city": ["Rome"], "days": [3]}, {"city": "Rome"}, False),
        ({"city": ["Rome"], "days": [3, ""]}, {"city": "Rome"}, True),
        ({"city": ["Rome", "Roma"]}, {"city": "Roma"}, True),
        ({"city": ["New York"]}, {"city": "new-york"}, True),
        ({"city": ["Rome"]}, {"city": "Paris"}, False),
        ({"city": ["Rome"]}, {"city": "Rome", "days": 1}, False),
        ({"flag": [True]}, {"flag": 1}, False),
        ({"flag": [True]}, {"flag": True}, True),
        ({"many": [[1, "a"]]}, {"many": [1.0, "A"]}, True),
        ({"many": [[1, 2]]}, {"many": [2, 1]}, False),
        ({"deep": [{"a": 1}]}, {"deep": {"a": 1}}, True),
        ({"city": ["Rome"]}, "{", False),
        ({"city": ["Rome"]}, "[]", False),
        ({}, "{}", True),
    ],
)
def test_arguments(right: dict[str, Any], arguments: object, is_right: bool) -> None:
    expected = {"name": "get_weather", "arguments": right}
    assert scores(expected, call("get_weather", arguments)) == (float(is_right), 1.0, float(is_right))
    assert scores(expected, call("get_time", arguments)) == (0.0, 0.0, float(is_right))


def test_one_call_is_expected_or_none() -> None:
    right = call("get_weather", {"city": "Rome"})
    assert scores(ITEM["expected"]) == scores(ITEM["expected"], right, right) == (0.0, 0.0, 0.0)
    assert scores(None) == (1.0, 1.0, 1.0) and scores(None, right) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"tools": "none"}, "tools must be there and of type list"),
        ({"question": None}, "must have question, a text, or messages"),
        ({"tools": [{"name": "f"}]}, "tools must be functions as OpenAI's API has them"),
        ({"expected": {"name": "f", "arguments": {}}}, "expected must be null or have name, one of get_weather, get_time"),
        ({"expected": {"name": "get_time"}}, "expected must be null or have name"),
        ({"expected": {"name": "get_time", "arguments": {"zone": "utc"}}}, "expected.arguments.zone must be the list"),
    ],
)
def test_a_malformed_item_is_named(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps({**ITEM, **change}))
    with pytest.raises(UserError, match=f"bad.jsonl.*{fault}"):
        Tools.read(tmp_path / "bad.jsonl")


def test_a_bundle_and_a_server_are_asked_and_read_alike(tmp_path: Path) -> None:
    """What is served is asked through the official client, what is local through the engine; one call in four is right."""
    said = [
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>',
        "Nice, I guess.",
        '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}</tool_call>' * 2,
    ]
    rows = [{**ITEM, "id": str(i), "question": f"Question {i}"} for i in range(4)]
    (tmp_path / "calls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def speak(prompt: str) -> str:
        return next(said[i] for i in range(4) if f"Question {i}" in prompt)

    with running(speak=speak, template=HERMES_TEMPLATE) as served:
        local = prompts()
        spec = SetSpec.model_validate({"format": "tools", "path": "calls.jsonl"}, context={"folder": tmp_path})
        item_set = open_set(spec, local, 0)
        eos = served.tokenizer.token_to_id("</s>")
        subject = Subject(local, lambda num_tokens: EngineCore(SpeakingRunner(local.tokenizer, speak), [eos]))
        comparison = compare_on(item_set, EndpointContender(served.url, None, None), subject, seed=0)
    assert [one.answer for one in comparison.baseline] == [one.answer for one in comparison.candidate]
    marks = {one.item: one.scores["call"] for one in comparison.candidate}
    assert marks == {"0": 1.0, "1": 0.0, "2": 0.0, "3": 0.0}
    assert comparison.record()["metric"] == "call"


def test_a_served_prompt_is_the_sets() -> None:
    local = prompts()
    (question,) = Tools("tools", [ITEM]).questions(ITEM, local)
    with running(speak=lambda prompt: "", template=HERMES_TEMPLATE) as served:
        asked = {"messages": [{"role": "user", "content": "Rome?"}], "tools": TOOLS, "temperature": 0}
        usage = httpx.post(f"{served.url}/v1/chat/completions", json=asked).json()["usage"]
    assert usage["prompt_tokens"] == len(question.token_ids)


def test_the_questions_of_a_seed(tmp_path: Path) -> None:
    """Always the same, none twice, and every right answer fits its function's schema."""
    items = questions(100, 0)
    assert items == questions(100, 0) != questions(100, 1)
    assert len({item["question"] for item in items}) == 100
    write_questions(tmp_path / "questions.jsonl", 100, 0)
    assert [item["expected"] for item in Tools.read(tmp_path / "questions.jsonl")] == [item["expected"] for item in items]
    assert {item["expected"]["name"] for item in items} == {kind.name for kind in KINDS}
    for item in items:
        (function,) = [t["function"] for t in item["tools"] if t["function"]["name"] == item["expected"]["name"]]
        for values in zip(*item["expected"]["arguments"].values(), strict=False):
            jsonschema.validate(dict(zip(item["expected"]["arguments"], values, strict=True)), function["parameters"])
