"""Tools, reasoning and schemas through /v1/responses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.conftest import Served, running
from tests.server.speaking import HERMES_TEMPLATE, keyed
from tests.server.test_responses_api import WEATHER, answered, prompt_of, refused, text_of
from tests.server.test_responses_events import BEGIN, CALLED, TEXT, THOUGHT, streamed, types

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with running(speak=keyed, template=HERMES_TEMPLATE) as served:
        yield served


def calls_of(response: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(item["name"], json.loads(item["arguments"])) for item in response["output"] if item["type"] == "function_call"]


PARIS, ROME = ("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})


@pytest.mark.parametrize(
    ("text", "kinds", "calls"),
    [
        ("The weather?", ["function_call"], [PARIS]),
        ("two cities", ["function_call", "function_call"], [PARIS, ROME]),
        ("say and call", ["message", "function_call"], [PARIS]),
        ("think and call", ["reasoning", "function_call"], [PARIS]),
        ("Hi", ["message"], []),
    ],
)
def test_calls_are_items(served: Served, text: str, kinds: list[str], calls: list[Any]) -> None:
    response = answered(served, input=text, tools=[WEATHER])
    assert [item["type"] for item in response["output"]] == kinds and response["status"] == "completed"
    assert calls_of(response) == calls
    made = [item for item in response["output"] if item["type"] == "function_call"]
    assert all(item["id"].startswith("fc_") and item["status"] == "completed" for item in made)
    assert len({item["call_id"] for item in made}) == len(made)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("The weather?", CALLED),
        ("two cities", CALLED + CALLED),
        ("say and call", TEXT + CALLED),
        ("think and call", THOUGHT + CALLED),
        ("think", THOUGHT + TEXT),
    ],
)
def test_they_are_streamed(served: Served, text: str, names: list[str]) -> None:
    events = streamed(served, input=text, tools=[WEATHER])
    assert types(events) == [*BEGIN, *names, "response.completed"]
    end = events[-1]["response"]
    assert [item["type"] for item in end["output"]] == [
        item["type"] for item in answered(served, input=text, tools=[WEATHER])["output"]
    ]
    done = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    pieces: dict[str, str] = {}
    for event in events:
        if event["type"] == "response.function_call_arguments.delta":
            pieces[event["item_id"]] = pieces.get(event["item_id"], "") + event["delta"]
    assert [event["arguments"] for event in done] == list(pieces.values())


def test_one_at_a_time(served: Served) -> None:
    assert calls_of(answered(served, input="two cities", tools=[WEATHER], parallel_tool_calls=False)) == [PARIS]


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "name": "get_weather"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]},
    ],
)
def test_a_call_that_must_be_made(served: Served, choice: Any) -> None:
    other = {"type": "function", "name": "other", "parameters": {"type": "object", "properties": {}}}
    response = answered(served, input="The weather?", tools=[WEATHER, other], tool_choice=choice)
    assert calls_of(response) == [PARIS] and response["tool_choice"] == choice
    assert [tool["name"] for tool in response["tools"]] == ["get_weather", "other"]


def test_no_call_where_none_may_be(served: Served) -> None:
    assert calls_of(answered(served, input="The weather?", tools=[WEATHER], tool_choice="none")) == []


def test_tools_are_in_the_prompt(served: Served) -> None:
    function = {name: value for name, value in WEATHER.items() if name != "type"}
    tools = [{"type": "function", "function": function}]
    chat = [{"role": "user", "content": "Hi"}]
    assert answered(served, input="Hi", tools=[WEATHER])["usage"]["input_tokens"] == prompt_of(served, chat, tools=tools)


def test_a_call_and_its_result_come_back(served: Served) -> None:
    call = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "get_weather", "arguments": '{"city": "Paris"}'}
    result = {"type": "function_call_output", "call_id": "c1", "output": "21"}
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    chat = [
        {"role": "user", "content": "The weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c1", "content": "21"},
    ]
    items = [{"role": "user", "content": "The weather?"}, call, result]
    response = answered(served, input=items)
    assert text_of(response) == "It is 21 degrees."
    assert response["usage"]["input_tokens"] == prompt_of(served, chat)
    parts = answered(served, input=[*items[:2], result | {"output": [{"type": "input_text", "text": "21"}]}])
    assert parts["usage"]["input_tokens"] == prompt_of(served, chat)


def test_an_answer_is_input_again_and_a_conversation_goes_on_alike(served: Served) -> None:
    first = answered(served, input="two cities", tools=[WEATHER])
    results = [{"type": "function_call_output", "call_id": item["call_id"], "output": "21"} for item in first["output"]]
    said = [{"role": "user", "content": "two cities"}, *first["output"], *results]
    whole = answered(served, input=said, tools=[WEATHER])
    kept = answered(served, input=results, previous_response_id=first["id"], tools=[WEATHER])
    assert text_of(whole) == text_of(kept) == "It is 21 degrees."
    assert whole["usage"]["input_tokens"] == kept["usage"]["input_tokens"]


def test_thoughts_are_counted(served: Served) -> None:
    usage = answered(served, input="think")["usage"]
    assert 0 < usage["output_tokens_details"]["reasoning_tokens"] < usage["output_tokens"]


@pytest.mark.parametrize(
    "format", [{"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}, {"type": "json_object"}]
)
def test_an_answer_in_a_form(served: Served, format: dict[str, Any]) -> None:
    response = answered(served, input="person", text={"format": format})
    assert json.loads(text_of(response)) == {"name": "Ada", "age": 36}
    assert response["text"]["format"] == format


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"properties": {"b": {"not": {}}}}}}},
         "text.format.schema.properties.b.not"),
        ({"tools": [WEATHER | {"name": "a b"}]}, "tools.0.name"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_as_it_was_sent(served: Served, body: dict[str, Any], param: str) -> None:
    error = refused(served, input="Hi", **body)
    assert error["param"] == param and error["message"].startswith(param), error
