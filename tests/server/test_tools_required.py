"""A call that is required, or named, is one: the grammar leaves a model nothing else to say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from runtime.tools.formats import FORMATS
from tests.server.speaking import HERMES_TEMPLATE
from tests.server.tool_requests import TIME, WEATHER, answer, calls, post, say, streamed

NAMED = {"type": "function", "function": {"name": "get_weather"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
TIME_CALL = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
ANSWERS = {
    "prose": "No, I would rather not.",
    "the call": CALL,
    "another": TIME_CALL,
    "a wrong type": CALL.replace('"Rome"', "5"),
    "no such argument": CALL.replace("city", "town"),
    "an unknown function": CALL.replace("get_weather", "get_wealth"),
    "nothing": "",
}


@pytest.fixture(scope="module")
def hermes(run_server: Any) -> Iterator[Any]:
    with run_server(speak=lambda prompt: "", template=HERMES_TEMPLATE) as served:
        yield served


def check(choice: Any, *names: str) -> None:
    """Every call is of one of `names`, with arguments that its schema allows; an answer has at least one."""
    assert choice["finish_reason"] == "tool_calls"
    made = calls(choice)
    assert made
    for name, arguments in made:
        assert name in names
        (tool,) = [tool for tool in (WEATHER, TIME) if tool["function"]["name"] == name]  # type: ignore[index]
        jsonschema.validate(arguments, tool["function"].get("parameters", {"maxProperties": 0}))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_required(hermes: Any, name: str, stream: bool) -> None:
    say(hermes, ANSWERS[name])
    check(
        (streamed if stream else answer)(hermes, tool_choice="required", parallel_tool_calls=False, max_tokens=200),
        "get_weather",
        "get_time",
    )


@pytest.mark.parametrize("name", ANSWERS)
def test_named(hermes: Any, name: str) -> None:
    say(hermes, ANSWERS[name])
    choice = answer(hermes, tool_choice=NAMED, max_tokens=200)
    check(choice, "get_weather")
    assert len(choice["message"]["tool_calls"]) == 1


def test_allowed(hermes: Any) -> None:
    say(hermes, CALL)
    only_time = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{**NAMED, "function": {"name": "get_time"}}]},
    }
    check(answer(hermes, tool_choice=only_time, parallel_tool_calls=False, max_tokens=200), "get_time")


def test_allowed_and_free(hermes: Any) -> None:
    say(hermes, "I would rather not.")
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}
    assert answer(hermes, tool_choice=allowed)["message"]["content"] == "I would rather not."


def test_several_required_calls(hermes: Any) -> None:
    say(hermes, f"{CALL}\n{TIME_CALL}")
    assert calls(answer(hermes, tool_choice="required")) == [("get_weather", {"city": "Rome"}), ("get_time", {})]


@pytest.mark.parametrize("format", [format.name for format in FORMATS])
def test_every_format_is_held_to_its_grammar(run_server: Any, format: str) -> None:
    from runtime.chat import ChatTemplate

    template = ChatTemplate(HERMES_TEMPLATE, bos_token="<s>", eos_token="</s>", tool_format=format)
    with run_server(speak=lambda prompt: "I say what I want.", chat_template=template) as served:
        check(answer(served, tool_choice=NAMED, max_tokens=300), "get_weather")


def test_a_form_or_a_call(hermes: Any) -> None:
    """An answer that must have a form may be a call all the same: agents with an output type ask so."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}, "max_tokens": 200}
    say(hermes, CALL)
    assert calls(answer(hermes, **asked)) == [("get_weather", {"city": "Rome"})]
    say(hermes, '{"ok": true}')
    assert json.loads(answer(hermes, **asked)["message"]["content"]) == {"ok": True}


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"tools": [], "tool_choice": "required"}, None, "needs tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, None, "must name one of the tools, got 'f'"),
        ({"tool_choice": "sometimes"}, "tool_choice", "'auto', 'none' or 'required'"),
        ({"tools": [WEATHER, WEATHER]}, None, "different names, got 'get_weather' twice"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.type", "'function'"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name", "letters, digits"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools.0.function.name", "letters, digits"),
        ({"tools": ["get_weather"]}, "tools.0", "an object"),
        ({"tools": {"get_weather": {}}}, "tools", "a list"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]}, None, "'object'"),
        ({"parallel_tool_calls": "perhaps"}, "parallel_tool_calls", "true or false"),
    ],
)
def test_what_is_refused(hermes: Any, fields: dict[str, Any], param: str | None, message: str) -> None:
    response = post(hermes, **fields)
    error = response.json()["error"]
    assert response.status_code == 400 and message in error["message"], error
    assert param is None or error["param"] == param


def test_a_keyword_that_cannot_be_followed_is_refused_by_its_path(hermes: Any) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    error = post(hermes, tools=tools, tool_choice="required").json()["error"]
    assert error["param"] == "tools.0.function.parameters.properties.a.uniqueItems"
    assert post(hermes, tools=tools).status_code == 200, "where nothing is held to the schema it may say what it likes"
