"""The stream of /v1/responses: which events, in which order, and that the official client puts them together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel

from runtime.answer.events import AnswerEvent, CallDelta, CallStart, ReasoningDelta, TextDelta
from runtime.server.response_object import Response, ResponseUsage
from runtime.server.response_writer import ResponseWriter
from tests.server.conftest import Served, running
from tests.server.speaking import HERMES_TEMPLATE, keyed

HTTP = httpx.Client(timeout=20)
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
BEGIN = ["response.created", "response.in_progress"]
TEXT = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
THOUGHT = [name.replace("output_text", "reasoning_text") for name in TEXT]
CALLED = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with running(speak=keyed, template=HERMES_TEMPLATE) as served:
        yield served


def streamed(served: Served, **body: Any) -> list[dict[str, Any]]:
    """The events; each is checked: its name before its data, its number, its form by the official client's types."""
    answer = HTTP.post(f"{served.url}/v1/responses", json={"temperature": 0, "stream": True} | body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for number, frame in enumerate(answer.text.removesuffix("\n\n").split("\n\n")):
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}" and event["sequence_number"] == number
        checked(event)
        events.append(event)
    return events


def checked(event: dict[str, Any]) -> None:
    kinds = {kind.model_fields["type"].annotation.__args__[0]: kind for kind in _kinds()}  # type: ignore[union-attr]
    kinds[event["type"]].model_validate(event, strict=True)


def _kinds() -> tuple[type[BaseModel], ...]:
    return ResponseStreamEvent.__args__[0].__args__  # type: ignore[attr-defined,no-any-return]


def types(events: list[dict[str, Any]]) -> list[str]:
    """Their types; deltas that follow each other count once."""
    names = [event["type"] for event in events]
    return [name for i, name in enumerate(names) if not i or name != names[i - 1] or not name.endswith(".delta")]


def test_a_text(served: Served) -> None:
    events = streamed(served, input="Hi")
    assert types(events) == [*BEGIN, *TEXT, "response.completed"]
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert text == "Hello there." == events[-1]["response"]["output"][0]["content"][0]["text"]
    places = {(event.get("item_id"), event.get("output_index"), event.get("content_index")) for event in events[4:-3]}
    assert places == {(events[2]["item"]["id"], 0, 0)}


def test_the_end_is_what_is_answered_without_a_stream(served: Served) -> None:
    whole = HTTP.post(f"{served.url}/v1/responses", json={"temperature": 0, "input": "emoji"}).json()
    end = streamed(served, input="emoji")[-1]["response"]
    for response in (whole, end):
        response["output"][0]["id"] = response["id"] = "the same"
        response["created_at"] = response["completed_at"] = 0
        response["usage"]["input_tokens_details"]["cached_tokens"] = 0
    assert whole == end


def test_characters_are_whole(served: Served) -> None:
    events = streamed(served, input="emoji")
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "你好 😀!" and not any("\ufffd" in delta for delta in deltas)


def test_a_cut_answer(served: Served) -> None:
    events = streamed(served, input="count", max_output_tokens=4)
    assert types(events) == [*BEGIN, *TEXT, "response.incomplete"]
    assert events[-2]["item"]["status"] == "incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_nothing_said(served: Served) -> None:
    events = streamed(served, input="nothing")
    assert types(events) == [*BEGIN, *TEXT, "response.completed"]


def test_logprobs_are_with_the_texts(served: Served) -> None:
    events = streamed(served, input="Hi", include=["message.output_text.logprobs"], top_logprobs=1)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    tokens = [token for event in deltas for token in event["logprobs"]]
    (done,) = [event for event in events if event["type"] == "response.output_text.done"]
    assert tokens == done["logprobs"] == events[-1]["response"]["output"][0]["content"][0]["logprobs"]
    assert "".join(token["token"] for token in tokens).removesuffix("</s>") == "Hello there."


def test_the_official_client_puts_it_together(served: Served) -> None:
    with served.client().responses.stream(model="tiny", input="emoji", temperature=0) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots[-1] == final.output_text == "你好 😀!"
    assert final.usage is not None and final.usage.output_tokens > 0


def test_a_refusal_comes_before_the_stream(served: Served) -> None:
    answer = HTTP.post(f"{served.url}/v1/responses", json={"input": "x" * 5000, "stream": True})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "context_length_exceeded"


def test_a_failure_on_the_way_is_the_last_event(run_server: Any) -> None:
    with run_server(speak=keyed, template=HERMES_TEMPLATE) as served:
        served.runner.num_steps_left = 6
        body = {"input": "count", "stream": True}
        with httpx.stream("POST", f"{served.url}/v1/responses", json=body, timeout=20) as answer:
            lines = answer.iter_lines()
            next(line for line in lines if "output_text.delta" in line)
            last = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")][-1]
    assert last["type"] == "response.failed" and last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "server_error" and last["response"]["error"]["message"]
    checked(last)


def written(events: list[AnswerEvent], reason: Any = "stop") -> tuple[list[dict[str, Any]], Response]:
    """What the writer makes of these events."""
    fields: dict[str, Any] = dict.fromkeys(("instructions", "max_output_tokens", "previous_response_id"))
    response = Response(
        id="resp_1", created_at=0, status="in_progress", metadata={}, model="tiny", output=[], parallel_tool_calls=True,
        reasoning={}, store=True, temperature=1.0, text={}, tool_choice="auto", tools=[], top_logprobs=0, top_p=1.0,
        truncation="disabled", **fields,
    )  # fmt: skip
    writer = ResponseWriter(response)
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    usage = ResponseUsage(input_tokens=1, output_tokens=1, total_tokens=2, **details)  # type: ignore[arg-type]
    said = [*writer.begin(), *(e for event in events for e in writer.push(event)), *writer.finish(reason, usage)]
    dumped = [json.loads(event.model_dump_json(exclude_unset=True)) for event in said]
    for event in dumped:
        checked(event)
    assert [event["sequence_number"] for event in dumped] == list(range(len(dumped)))
    return dumped, response


CALL: list[AnswerEvent] = [CallStart(0, "call_1", "f"), CallDelta(0, '{"a"'), CallDelta(0, ": 1}")]
SECOND: list[AnswerEvent] = [CallStart(1, "call_2", "g"), CallDelta(1, "{}")]
SAID: list[AnswerEvent] = [TextDelta("Yes"), TextDelta(".")]
THINKING: list[AnswerEvent] = [ReasoningDelta("Hm"), ReasoningDelta("m")]


@pytest.mark.parametrize(
    ("events", "names", "kinds"),
    [
        ([], TEXT, ["message"]),
        (SAID, TEXT, ["message"]),
        (CALL, CALLED, ["function_call"]),
        ([*CALL, *SECOND], CALLED + CALLED, ["function_call", "function_call"]),
        ([*SAID, *CALL], TEXT + CALLED, ["message", "function_call"]),
        ([*CALL, *SAID], CALLED + TEXT, ["function_call", "message"]),
        ([*THINKING, *SAID], THOUGHT + TEXT, ["reasoning", "message"]),
        ([*THINKING, *CALL, *SECOND], THOUGHT + CALLED + CALLED, ["reasoning", "function_call", "function_call"]),
        ([*THINKING, *SAID, *THINKING, *SAID], (THOUGHT + TEXT) * 2, ["reasoning", "message"] * 2),
        ([CallStart(0, "call_1", "f")], [CALLED[0], *CALLED[2:]], ["function_call"]),
    ],
)
def test_every_order_of_items(events: list[AnswerEvent], names: list[str], kinds: list[str]) -> None:
    said, response = written(events)
    assert types(said) == [*BEGIN, *names, "response.completed"]
    assert [item.type for item in response.output] == kinds
    assert all(item.status == "completed" for item in response.output)
    added = [event for event in said if event["type"] == "response.output_item.added"]
    done = [event for event in said if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in added] == [event["output_index"] for event in done] == list(range(len(kinds)))
    assert [event["item"]["id"] for event in added] == [event["item"]["id"] for event in done]
    assert len({event["item"]["id"] for event in added}) == len(added)


def test_a_call_keeps_its_name_id_and_arguments() -> None:
    said, response = written([*CALL, *SECOND])
    first, second = response.output
    assert first.type == "function_call" and (first.call_id, first.name, first.arguments) == ("call_1", "f", '{"a": 1}')
    assert second.type == "function_call" and (second.call_id, second.name, second.arguments) == ("call_2", "g", "{}")
    done = [event for event in said if event["type"] == "response.function_call_arguments.done"]
    assert [(event["name"], event["arguments"]) for event in done] == [("f", '{"a": 1}'), ("g", "{}")]
    added = [event["item"] for event in said if event["type"] == "response.output_item.added"]
    assert all(item["arguments"] == "" and item["status"] == "in_progress" for item in added)


def test_a_call_that_is_cut_is_incomplete() -> None:
    said, response = written(CALL[:2], "length")
    assert said[-1]["type"] == "response.incomplete" and response.output[-1].status == "incomplete"


def test_a_snapshot_does_not_change_later() -> None:
    said, response = written(SAID)
    assert [(event["response"]["status"], event["response"]["output"]) for event in said[:2]] == [("in_progress", [])] * 2
    assert response.output
