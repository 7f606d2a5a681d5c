"""Calls and results that come back from clients, tools in prompts, special tokens as markers: through the wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from runtime.chat import ChatTemplate
from tests.runtime.test_as_transformers import transformers_prompt
from tests.runtime.tool_template_styles import TOOL_STYLES
from tests.server.conftest import TEMPLATE
from tests.server.speaking import HERMES_TEMPLATE
from tests.server.tool_requests import TIME, WEATHER, answer, body, calls, post, streamed

USER = {"role": "user", "content": "How is it?"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
MADE = {"role": "assistant", "content": None, "tool_calls": [CALL]}
MEANT = {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "21"}
SAID = {"role": "assistant", "content": "A"}
SWAPPED = {"function": {"arguments": '{"city": "Rome"}', "name": "get_weather"}, "type": "function", "id": "call_1"}
ONLY_TIME = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "get_time"}}]}
WRITTEN = '{"name": "get_weather", "arguments": {"city": "Rome"}}'
DUMPED = {"refusal": None, "annotations": [], "audio": None, "function_call": None}


@pytest.fixture(scope="module")
def hermes(run_server: Any) -> Iterator[Any]:
    with run_server(template=TOOL_STYLES["hermes"]) as served:
        yield served


def prompt(served: Any, **fields: Any) -> str:
    """The prompt of a request, as the server's own endpoints give it."""
    tokens = httpx.post(f"{served.url}/tokenize", json=fields).raise_for_status().json()["tokens"]
    return str(httpx.post(f"{served.url}/detokenize", json={"tokens": tokens}).json()["prompt"])


#: messages as clients send them -> as they are meant
CASES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "a call and its result": ([USER, MADE, RESULT], [USER, MEANT, RESULT]),
    "what the client dumps": ([USER, MADE | DUMPED, RESULT], [USER, MEANT, RESULT]),
    "an empty content": ([USER, MADE | {"content": ""}, RESULT], [USER, MEANT | {"content": ""}, RESULT]),
    "a content": ([USER, MADE | {"content": "Wait."}, RESULT], [USER, MEANT | {"content": "Wait."}, RESULT]),
    "no calls: null": ([USER, SAID | {"tool_calls": None}, USER], [USER, SAID, USER]),
    "no calls: a list": ([USER, SAID | {"tool_calls": []}, USER], [USER, SAID, USER]),
    "arguments in another order": (
        [USER, MADE | {"tool_calls": [SWAPPED]}, RESULT],
        [USER, MEANT, RESULT],
    ),
    "a result in parts": ([USER, MADE, RESULT | {"content": [{"type": "text", "text": "21"}]}], [USER, MEANT, RESULT]),
    "a developer": (
        [{"role": "developer", "content": "S"}, USER, MADE, RESULT],
        [{"role": "system", "content": "S"}, USER, MEANT, RESULT],
    ),
    "two results": (
        [USER, MADE | {"tool_calls": [CALL, CALL | {"id": "call_2"}]}, RESULT, RESULT | {"tool_call_id": "call_2"}],
        [USER, {**MEANT, "tool_calls": MEANT["tool_calls"] * 2}, RESULT, RESULT],
    ),
}


@pytest.mark.parametrize("tools", [None, [WEATHER, TIME]], ids=["plain", "tools"])
@pytest.mark.parametrize("name", CASES)
def test_the_prompt_is_the_one_that_is_meant(hermes: Any, name: str, tools: Any) -> None:
    sent, meant = CASES[name]
    expected = transformers_prompt(TOOL_STYLES["hermes"], meant, tools=tools, add_generation_prompt=True)
    assert expected is not None and prompt(hermes, messages=sent, tools=tools) == expected


def test_tools_reach_the_template_as_they_were_sent(hermes: Any) -> None:
    odd = {"function": {"parameters": {"type": "object", "x-own": [1, None]}, "strict": True, "name": "f"}, "type": "function"}
    expected = transformers_prompt(TOOL_STYLES["hermes"], [USER], tools=[odd], add_generation_prompt=True)
    assert prompt(hermes, messages=[USER], tools=[odd]) == expected


def test_only_allowed_tools_are_shown(hermes: Any) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": ONLY_TIME}
    expected = transformers_prompt(TOOL_STYLES["hermes"], [USER], tools=[TIME], add_generation_prompt=True)
    assert prompt(hermes, messages=[USER], tools=[WEATHER, TIME], tool_choice=choice) == expected


def test_none_shows_no_tools(hermes: Any) -> None:
    expected = transformers_prompt(TOOL_STYLES["hermes"], [USER], add_generation_prompt=True)
    assert prompt(hermes, messages=[USER], tools=[WEATHER], tool_choice="none") == expected


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (MADE | {"tool_calls": [{"id": "a", "type": "function"}]}, "messages.1.tool_calls.0.function is required"),
        (MADE | {"tool_calls": [CALL | {"type": "custom"}]}, "messages.1.tool_calls.0.type must be 'function'"),
        (MADE | {"tool_calls": "get_weather"}, "messages.1.tool_calls must be a list"),
        (MADE | {"tool_calls": [CALL | {"function": {"name": "f", "arguments": "{"}}]}, "must be a JSON object"),
        (MADE | {"tool_calls": [CALL | {"function": {"name": "f", "arguments": "[1]"}}]}, "must be a JSON object"),
        (RESULT | {"tool_call_id": 5}, "messages.1.tool_call_id must be a string"),
        ({"role": "assistant", "content": "", "function_call": {"name": "f"}}, "must not have function_call"),
    ],
)
def test_what_is_refused(hermes: Any, message: dict[str, Any], rule: str) -> None:
    response = post(hermes, messages=[USER, message])
    assert response.status_code == 400 and rule in response.json()["error"]["message"], response.text


def test_a_whole_conversation(run_server: Any) -> None:
    """An answer goes back as it came, its result behind it, and the model answers in words."""

    def speak(prompt: str) -> str:
        return "It is 21." if "<tool_response>21" in prompt else f"<tool_call>\n{WRITTEN}\n</tool_call>"

    with run_server(speak=speak, template=HERMES_TEMPLATE) as served:
        for ask in (answer, streamed):
            first = ask(served)["message"]
            (call,) = first["tool_calls"]
            result = {"role": "tool", "tool_call_id": call["id"], "content": "21"}
            second = ask(served, messages=[*body()["messages"], first, result])
            assert (second["message"]["content"], second["finish_reason"]) == ("It is 21.", "stop")


def test_a_model_without_tools_in_its_template(run_server: Any) -> None:
    """They are described, and its answers are read as plain JSON."""
    heard: list[str] = []

    def speak(prompt: str) -> str:
        heard.append(prompt)
        return '{"name": "get_weather", "arguments": {"city": "Rome"}}'

    with run_server(speak=speak, template=TEMPLATE) as served:
        choice = answer(served)
        assert calls(choice) == [("get_weather", {"city": "Rome"})] and choice["finish_reason"] == "tool_calls"
        assert '"name": "get_weather"' in heard[0] and "<|system|>" in heard[0]
        result = {"role": "tool", "tool_call_id": choice["message"]["tool_calls"][0]["id"], "content": "21"}
        answer(served, messages=[*body()["messages"], choice["message"], result])
        assert f"assistant|>{WRITTEN}<|end|><|user|>Result of get_weather:\n21" in heard[1]


def test_a_model_whose_tool_format_is_unknown(run_server: Any) -> None:
    with run_server(template=TOOL_STYLES["command"]) as served:
        response = post(served)
        assert response.status_code == 400 and "--tool-format" in response.json()["error"]["message"]
        assert response.json()["error"]["param"] == "tools"


def test_markers_that_are_special_tokens(run_server: Any) -> None:
    """They show in no text, and are read all the same."""
    formats = {"tool_format": "mistral", "reasoning_format": "mistral"}
    template = ChatTemplate(HERMES_TEMPLATE, bos_token="<s>", eos_token="</s>", **formats)
    text = f"[THINK]Hm.[/THINK]Well. [TOOL_CALLS][{WRITTEN}]"
    special = ["[TOOL_CALLS]", "[THINK]", "[/THINK]"]
    with run_server(speak=lambda prompt: text, chat_template=template, special_tokens=special) as served:
        for ask in (answer, streamed):
            choice = ask(served)
            assert calls(choice) == [("get_weather", {"city": "Rome"})]
            assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == ("Hm.", "Well.")
            assert len(choice["message"]["tool_calls"][0]["id"]) == 9
        choice = answer(served, tool_choice="required", parallel_tool_calls=False)
        assert len(calls(choice)) == 1 and choice["message"]["reasoning_content"] == "Hm."
        plain = answer(served, tools=None)
        assert plain["message"]["content"] == 'Well. [{"name": "get_weather", "arguments": {"city": "Rome"}}]'
