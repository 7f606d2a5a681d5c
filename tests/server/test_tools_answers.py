"""Tool calls in answers: whole and streamed they are the same, and what the model's text says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.speaking import HERMES_TEMPLATE
from tests.server.tool_requests import TIME, WEATHER, answer, calls, deltas, post, say, streamed

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
TIME_CALL = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def hermes(run_server: Any) -> Iterator[Any]:
    with run_server(speak=lambda prompt: "", template=HERMES_TEMPLATE) as served:
        yield served


CASES: dict[str, tuple[str, str | None, list[tuple[str, Any]], str]] = {
    "text": ("Nice, I guess.", "Nice, I guess.", [], "stop"),
    "nothing": ("", "", [], "stop"),
    "a call": (CALL, None, [("get_weather", {"city": "Rome"})], "tool_calls"),
    "text and a call": (f"Let me see.\n{CALL}", "Let me see.", [("get_weather", {"city": "Rome"})], "tool_calls"),
    "two calls": (f"{CALL}\n{TIME_CALL}", None, [("get_weather", {"city": "Rome"}), ("get_time", {})], "tool_calls"),
    "a call, then text": (f"{CALL}\nSo.", "So.", [("get_weather", {"city": "Rome"})], "tool_calls"),
    "text, a call, text": (f"A.{CALL}B.", "A.\nB.", [("get_weather", {"city": "Rome"})], "tool_calls"),
    "no end marker": (CALL.removesuffix("</tool_call>"), None, [("get_weather", {"city": "Rome"})], "tool_calls"),
    "no markers": ('{"name": "get_time", "arguments": {}}', None, [("get_time", {})], "tool_calls"),
    "a fence": ('```json\n{"name": "get_time", "arguments": {}}\n```', None, [("get_time", {})], "tool_calls"),
    "other JSON": ('{"temperature": 5}', '{"temperature": 5}', [], "stop"),
    "JSON of an unknown function": ('{"name": "f", "arguments": {}}', '{"name": "f", "arguments": {}}', [], "stop"),
    "an invented function": ('<tool_call>{"name": "f", "arguments": {}}</tool_call>', None, [("f", {})], "tool_calls"),
    "no JSON": ("<tool_call>what?</tool_call>", "<tool_call>what?</tool_call>", [], "stop"),
    "half a marker": ("a <tool_cal", "a <tool_cal", [], "stop"),
    "half a call": ('<tool_call>{"name": "get_w', '<tool_call>{"name": "get_w', [], "stop"),
    "a tag": ("Use <b> and </tool_call>.", "Use <b> and </tool_call>.", [], "stop"),
    "arguments first": (
        '<tool_call>{"arguments": {"city": "Rome"}, "name": "get_weather"}</tool_call>',
        None,
        [("get_weather", {"city": "Rome"})],
        "tool_calls",
    ),
    "arguments as a text": (
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Rome\\"}"}</tool_call>',
        None,
        [("get_weather", {"city": "Rome"})],
        "tool_calls",
    ),
    "no arguments": ('<tool_call>{"name": "get_time"}</tool_call>', None, [("get_time", {})], "tool_calls"),
    "line breaks in strings": (
        '<tool_call>{"name": "get_weather", "arguments": {"city": "a\nb\t}\\""}}</tool_call>',
        None,
        [("get_weather", {"city": 'a\nb\t}"'})],
        "tool_calls",
    ),
    "other alphabets": (
        CALL.replace("Rome", "你好😀"),
        None,
        [("get_weather", {"city": "你好😀"})],
        "tool_calls",
    ),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", CASES)
def test_answers(hermes: Any, name: str, stream: bool) -> None:
    text, content, called, reason = CASES[name]
    say(hermes, text)
    choice = (streamed if stream else answer)(hermes)
    message = choice["message"]
    # In a stream no content is an empty text.
    assert (message["content"] or None if stream else message["content"]) == (content or None if stream else content)
    assert (calls(choice) if called else message.get("tool_calls")) == (called or None)
    assert choice["finish_reason"] == reason
    ids = [call["id"] for call in message.get("tool_calls", [])]
    assert len(set(ids)) == len(ids) and all(id.startswith("call_") for id in ids)


def test_deltas_are_what_accumulators_take(hermes: Any) -> None:
    say(hermes, f"Hm.\n{CALL}\n{TIME_CALL}")
    chunks = deltas(hermes)
    assert chunks[0]["delta"] == {"role": "assistant", "content": ""}
    parts = [part for chunk in chunks for part in chunk["delta"].get("tool_calls", [])]
    assert all(len(chunk["delta"]) == 1 for chunk in chunks[1:-1]), "one thing at a time"
    starts = [part for part in parts if "id" in part]
    assert [(part["index"], part["type"], part["function"]) for part in starts] == [
        (0, "function", {"name": "get_weather", "arguments": ""}),
        (1, "function", {"name": "get_time", "arguments": ""}),
    ]
    later = [part for part in parts if "id" not in part]
    assert all(part.keys() == {"index", "function"} and part["function"].keys() == {"arguments"} for part in later)
    assert [part["index"] for part in parts] == sorted(part["index"] for part in parts)
    assert "".join(part["function"]["arguments"] for part in later if part["index"] == 0) == '{"city": "Rome"}'
    assert len(later) > 5, "arguments come piece by piece"
    assert [chunk["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["tool_calls"]


def test_text_streams_while_it_cannot_be_a_call(hermes: Any) -> None:
    text = "It is 5 < 6 degrees."
    say(hermes, text)
    texts = [chunk["delta"].get("content", "") for chunk in deltas(hermes)]
    assert "".join(texts) == text and len(texts) > 10


def test_one_call_where_calls_are_not_parallel(hermes: Any) -> None:
    say(hermes, f"{CALL}\n{TIME_CALL} and on and on")
    for choice in (answer(hermes, parallel_tool_calls=False), streamed(hermes, parallel_tool_calls=False)):
        assert calls(choice) == [("get_weather", {"city": "Rome"})]
        assert choice["finish_reason"] == "tool_calls"
        assert not choice["message"]["content"]


def test_the_model_stops_after_the_only_call(hermes: Any) -> None:
    say(hermes, f"{CALL}{'never read ' * 50}")
    usage = post(hermes, parallel_tool_calls=False).json()["usage"]
    assert usage["completion_tokens"] < len(CALL) + 2


def test_a_call_that_is_cut_off(hermes: Any) -> None:
    say(hermes, CALL)
    for choice in (answer(hermes, max_tokens=60), streamed(hermes, max_tokens=60)):
        (call,) = choice["message"]["tool_calls"]
        assert '{"city": "Rome"}'.startswith(call["function"]["arguments"])
        assert choice["finish_reason"] == "length"


@pytest.mark.parametrize("fields", [{"tool_choice": "none"}, {"tools": []}, {"tools": None}])
def test_without_tools_a_call_is_text(hermes: Any, fields: dict[str, Any]) -> None:
    say(hermes, CALL)
    choice = answer(hermes, **fields)
    assert (choice["message"]["content"], choice["finish_reason"]) == (CALL, "stop")
    assert "tool_calls" not in choice["message"]


def test_choices_have_calls_of_their_own(hermes: Any) -> None:
    say(hermes, CALL)
    choices = post(hermes, n=3).json()["choices"]
    assert [calls(choice) for choice in choices] == [[("get_weather", {"city": "Rome"})]] * 3
    assert len({choice["message"]["tool_calls"][0]["id"] for choice in choices}) == 3


def test_a_stop_string_ends_a_call_too(hermes: Any) -> None:
    say(hermes, f"Well.{CALL}")
    choice = answer(hermes, stop=["<tool_call>"])
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Well.", "stop")


def test_logprobs_cover_every_token(hermes: Any) -> None:
    say(hermes, f"A.{CALL}")
    whole = answer(hermes, logprobs=True)
    chunks = deltas(hermes, logprobs=True)
    scored = [token for chunk in chunks if chunk["logprobs"] for token in chunk["logprobs"]["content"]]
    assert [token["token"] for token in scored] == [token["token"] for token in whole["logprobs"]["content"]]
    assert "".join(token["token"] for token in scored).startswith(f"A.{CALL}")


def test_usage_counts_the_tokens_of_calls(hermes: Any) -> None:
    say(hermes, CALL)
    usage = post(hermes).json()["usage"]
    assert usage["completion_tokens"] == len(hermes.tokenizer.encode(CALL, add_special_tokens=False).ids) + 1
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}


def test_the_official_client(hermes: Any) -> None:
    say(hermes, f"Let me see. {CALL}")
    asked: Any = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "tools": [WEATHER, TIME]}
    client = hermes.client()
    (call,) = client.chat.completions.create(**asked).choices[0].message.tool_calls
    assert (call.type, call.function.name, call.function.arguments) == ("function", "get_weather", '{"city": "Rome"}')
    with client.chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion().choices[0]
    assert {"chunk", "content.delta", "tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert final.message.content == "Let me see."
    assert final.message.tool_calls[0].function.arguments == '{"city": "Rome"}'


def test_parse_with_pydantic(hermes: Any) -> None:
    import openai
    from pydantic import BaseModel

    class GetWeather(BaseModel):
        city: str

    say(hermes, CALL.replace("get_weather", "GetWeather"))
    parsed = hermes.client().chat.completions.parse(
        model="tiny", messages=[{"role": "user", "content": "?"}], tools=[openai.pydantic_function_tool(GetWeather)]
    )
    assert parsed.choices[0].message.tool_calls[0].function.parsed_arguments == GetWeather(city="Rome")
