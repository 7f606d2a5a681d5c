"""The stream of /v1/messages: which events, in which order; tools, thoughts and schemas in it and without it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from runtime.answer.events import AnswerEvent, CallDelta, CallStart, ReasoningDelta, TextDelta
from runtime.server.messages_writer import MessageWriter, parsed
from runtime.server.protocol_messages import AnsweredMessage, MessageUsage, ThinkingDetails
from tests.server.conftest import Served, running
from tests.server.speaking import HERMES_TEMPLATE, keyed
from tests.server.test_messages_api import HTTP, USER, WEATHER, answered, input_of, post, prompt_of, text_of

USE = ["tool_use", "input_json_delta"]
TEXT = ["text", "text_delta"]
THOUGHT = ["thinking", "thinking_delta", "signature_delta"]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with running(speak=keyed, template=HERMES_TEMPLATE) as served:
        yield served


def asked(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def streamed(served: Served, **body: Any) -> list[dict[str, Any]]:
    answer = post(served, stream=True, **body)
    assert answer.status_code == 200, answer.text
    events = []
    for frame in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def outline(events: list[dict[str, Any]]) -> list[str]:
    """The kinds of blocks and of their deltas, those that follow each other once; the frame of events is checked."""
    first, *blocks, delta, stop = events
    assert (first["type"], delta["type"], stop["type"]) == ("message_start", "message_delta", "message_stop")
    names: list[str] = []
    index, is_open = -1, False
    for event in blocks:
        if event["type"] == "content_block_start":
            index += 1
            assert not is_open
            names.append(event["content_block"]["type"])
        elif event["type"] == "content_block_delta":
            assert is_open
            if event["delta"]["type"] != names[-1]:
                names.append(event["delta"]["type"])
        else:
            assert event["type"] == "content_block_stop" and is_open
        is_open = event["type"] != "content_block_stop"
        assert event["index"] == index
    assert not is_open
    return names


def put_together(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks that a client makes of the events."""
    blocks: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
            pieces = ""
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            if delta["type"] == "input_json_delta":
                pieces += delta["partial_json"]
            else:
                name = delta["type"].removesuffix("_delta")
                blocks[-1][name] += delta[name]
        elif event["type"] == "content_block_stop" and blocks[-1]["type"] == "tool_use":
            blocks[-1]["input"] = json.loads(pieces)
    return blocks


@pytest.mark.parametrize(
    ("text", "names", "reason"),
    [
        ("Hi", TEXT, "end_turn"),
        ("nothing", [], "end_turn"),
        ("emoji", TEXT, "end_turn"),
        ("The weather?", USE, "tool_use"),
        ("two cities", USE + USE, "tool_use"),
        ("say and call", TEXT + USE, "tool_use"),
        ("think", THOUGHT + TEXT, "end_turn"),
        ("think and call", THOUGHT + USE, "tool_use"),
    ],
)
def test_a_stream_is_the_answer(served: Served, text: str, names: list[str], reason: str) -> None:
    body = {"messages": asked(text), "tools": [WEATHER], "max_tokens": 300}
    whole, events = answered(served, **body), streamed(served, **body)
    assert outline(events) == names
    assert events[0]["message"]["content"] == [] and events[0]["message"]["stop_reason"] is None
    assert input_of(events[0]["message"]) == input_of(whole)
    blocks = put_together(events)
    for block in (*blocks, *whole["content"]):
        assert block.pop("id", "call").startswith("call")
    assert blocks == whole["content"]
    assert events[-2]["delta"] == {"stop_reason": reason, "stop_sequence": None}
    assert whole["stop_reason"] == reason
    assert events[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]


def test_stop_sequences_in_a_stream(served: Served) -> None:
    events = streamed(served, messages=asked("count"), stop_sequences=[" three"])
    assert events[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": " three"}
    assert put_together(events) == [{"type": "text", "text": "one two"}]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_call_that_must_be_made(served: Served, choice: Any) -> None:
    message = answered(served, messages=asked("The weather?"), tools=[WEATHER], tool_choice=choice, max_tokens=300)
    (block,) = message["content"]
    assert (block["name"], block["input"], message["stop_reason"]) == ("get_weather", {"city": "Paris"}, "tool_use")


def test_choices_that_leave_it_open(served: Served) -> None:
    def kinds(text: str, choice: Any) -> list[str]:
        message = answered(served, messages=asked(text), tools=[WEATHER], tool_choice=choice, max_tokens=300)
        return [block["type"] for block in message["content"]]

    assert kinds("The weather?", {"type": "none"}) == ["text"]
    assert kinds("two cities", {"type": "auto"}) == ["tool_use", "tool_use"]
    assert kinds("two cities", {"type": "auto", "disable_parallel_tool_use": True}) == ["tool_use"]


def test_a_call_and_its_result_come_back(served: Served) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Zürich"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "21"}
    turns = [*asked("The weather?"), {"role": "assistant", "content": [{"type": "text", "text": "Let me look."}, use]}]
    function = {"name": "get_weather", "arguments": '{"city": "Zürich"}'}
    calls = [{"id": "toolu_1", "type": "function", "function": function}]
    chat = [
        *asked("The weather?"),
        {"role": "assistant", "content": "Let me look.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "21"},
    ]
    message = answered(served, messages=[*turns, {"role": "user", "content": [result]}])
    assert text_of(message) == "It is 21 degrees." and input_of(message) == prompt_of(served, chat)
    blocks = result | {"content": [{"type": "text", "text": "21"}], "is_error": False}
    assert input_of(answered(served, messages=[*turns, {"role": "user", "content": [blocks]}])) == prompt_of(served, chat)
    more = {"role": "user", "content": [result, {"type": "text", "text": "emoji"}]}
    message = answered(served, messages=[*turns, more])
    assert input_of(message) == prompt_of(served, [*chat, *asked("emoji")])


def test_an_answer_is_a_turn_again(served: Served) -> None:
    first = answered(served, messages=asked("think and call"), tools=[WEATHER], max_tokens=300)
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "21"}
        for block in first["content"]
        if block["type"] == "tool_use"
    ]
    turns = [*asked("think"), {"role": "assistant", "content": first["content"]}, {"role": "user", "content": results}]
    assert text_of(answered(served, messages=turns, tools=[WEATHER])) == "It is 21 degrees."


def test_an_answer_in_a_form(served: Served) -> None:
    person = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name"]}
    for fields in (
        {"output_config": {"format": {"type": "json_schema", "schema": person}}},
        {"output_format": {"type": "json_schema", "schema": person}},
    ):
        assert json.loads(text_of(answered(served, messages=asked("person"), **fields)))["name"] == "Ada"
    answer = post(served, output_config={"format": {"type": "json_schema", "schema": {"not": {}}}})
    assert answer.status_code == 400 and "output_config.format.schema.not" in answer.json()["error"]["message"]


def test_thinking_is_counted_and_tools_too(served: Served) -> None:
    usage = answered(served, messages=asked("think"))["usage"]
    assert 0 < usage["output_tokens_details"]["thinking_tokens"] < usage["output_tokens"]
    function = {"name": "get_weather", "description": "The weather of a city", "parameters": WEATHER["input_schema"]}
    tools = [{"type": "function", "function": function}]
    counted = HTTP.post(f"{served.url}/v1/messages/count_tokens", json={"messages": USER, "tools": [WEATHER]}).json()
    assert counted == {"input_tokens": prompt_of(served, USER, tools=tools)}


def test_a_template_may_be_asked_to_think(run_server: Any) -> None:
    template = "{{ enable_thinking }}|{{ messages[0].content }}<|assistant|>"
    with run_server(speak=lambda prompt: prompt.partition("|")[0], template=template) as served:
        for kind, said in (("enabled", "True"), ("adaptive", "True"), ("disabled", "False")):
            assert text_of(answered(served, thinking={"type": kind})) == said
        own = {"thinking": {"type": "enabled"}, "chat_template_kwargs": {"enable_thinking": "perhaps"}}
        assert text_of(answered(served, **own)) == "perhaps"


def test_a_waiting_stream_says_ping(run_server: Any) -> None:

    def slowly(prompt: str) -> str:
        time.sleep(0.3)
        return "At last."

    with run_server(speak=slowly, template=HERMES_TEMPLATE, keep_alive_s=0.1) as served:
        events = streamed(served)
    assert any(event == {"type": "ping"} for event in events)
    assert outline([event for event in events if event["type"] != "ping"]) == TEXT


def test_a_failure_on_the_way_is_an_error_event(run_server: Any) -> None:
    with run_server(speak=keyed, template=HERMES_TEMPLATE) as served:
        served.runner.num_steps_left = 6
        body = {"messages": asked("count"), "max_tokens": 100, "stream": True}
        with httpx.stream("POST", f"{served.url}/v1/messages", json=body, timeout=20) as answer:
            lines = answer.iter_lines()
            next(line for line in lines if "text_delta" in line)
            rest = [line for line in lines if line]
    assert rest[-2] == "event: error"
    said = json.loads(rest[-1].removeprefix("data: "))
    assert said["type"] == "error" and said["error"]["type"] == "api_error" and said["error"]["message"]


def test_a_client_that_leaves_frees_its_blocks(run_server: Any, wait: Any) -> None:
    with run_server(speak=lambda _: "x" * 3000, template=HERMES_TEMPLATE) as served:
        for path, body in (("messages", {"messages": USER, "max_tokens": 3000}), ("responses", {"input": "Hi"})):
            with httpx.stream("POST", f"{served.url}/v1/{path}", json=body | {"stream": True}, timeout=20) as answer:
                next(line for line in answer.iter_lines() if ".delta" in line or "text_delta" in line)
            wait(lambda: served.engine.stats().num_running == 0)


CALL: list[AnswerEvent] = [CallStart(0, "call_1", "f"), CallDelta(0, '{"a"'), CallDelta(0, ": 1}")]
SAID: list[AnswerEvent] = [TextDelta("Yes"), TextDelta(".")]
THINKING: list[AnswerEvent] = [ReasoningDelta("Hm"), ReasoningDelta("m")]


@pytest.mark.parametrize(
    ("events", "names", "reason", "stop"),
    [
        ([], [], "stop", "end_turn"),
        (SAID, TEXT, "stop", "end_turn"),
        (SAID, TEXT, "length", "max_tokens"),
        (CALL, USE, "tool_calls", "tool_use"),
        (CALL, USE, "stop", "tool_use"),
        (CALL[:2], USE, "length", "max_tokens"),
        ([*CALL, *SAID], USE + TEXT, "stop", "tool_use"),
        ([*THINKING, *SAID, *CALL], THOUGHT + TEXT + USE, "stop", "tool_use"),
        ([CallStart(0, "call_1", "f")], USE[:1], "stop", "tool_use"),
    ],
)
def test_every_order_of_blocks(events: list[AnswerEvent], names: list[str], reason: Any, stop: str) -> None:
    usage = MessageUsage(
        input_tokens=1, cache_read_input_tokens=0, output_tokens=1, output_tokens_details=ThinkingDetails(thinking_tokens=0)
    )
    message = AnsweredMessage(id="msg_1", model="tiny", content=[], usage=usage)
    writer = MessageWriter(message)
    said = [
        *writer.begin(),
        *(e for event in events for e in writer.push(event)),
        *writer.finish(reason, None, usage, max_tokens=usage.output_tokens),
    ]
    dumped = [json.loads(event.model_dump_json(exclude_unset=True)) for event in said]
    assert outline(dumped) == names and dumped[0]["message"]["content"] == []
    assert message.stop_reason == stop == dumped[-2]["delta"]["stop_reason"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ("", {}),
        ('{"a": [1, 2', {"a": [1, 2]}),
        ('{"a": "Pa', {}),
        ("[1]", {}),
        ("no JSON", {}),
        ("null", {}),
    ],
)
def test_arguments_that_were_cut_are_read_as_far_as_they_go(text: str, value: Any) -> None:
    assert parsed(text) == value
