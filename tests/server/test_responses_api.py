"""/v1/responses over HTTP: what it takes and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.server.conftest import Served, running
from tests.server.speaking import HERMES_TEMPLATE, keyed

HTTP = httpx.Client(timeout=20)
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with running(speak=keyed, template=HERMES_TEMPLATE) as served:
        yield served


def post(served: Served, **body: Any) -> httpx.Response:
    return HTTP.post(f"{served.url}/v1/responses", json={"temperature": 0} | body)


def answered(served: Served, **body: Any) -> dict[str, Any]:
    answer = post(served, **body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def refused(served: Served, **body: Any) -> dict[str, Any]:
    answer = post(served, **body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    return dict(error)


def text_of(response: dict[str, Any]) -> str:
    (message,) = [item for item in response["output"] if item["type"] == "message"]
    (part,) = message["content"]
    return str(part["text"])


def prompt_of(served: Served, messages: list[dict[str, Any]], **fields: Any) -> int:
    """How many tokens the same chat has by /tokenize."""
    return int(HTTP.post(f"{served.url}/tokenize", json={"messages": messages, **fields}).json()["count"])


def test_a_text_in_and_a_message_out(served: Served) -> None:
    response = answered(served, input="Hi")
    assert response["object"] == "response" and response["id"].startswith("resp_")
    assert response["status"] == "completed" and response["error"] is None and response["incomplete_details"] is None
    (item,) = response["output"]
    assert item["id"].startswith("msg_") and item["role"] == "assistant" and item["status"] == "completed"
    assert item["content"] == [{"type": "output_text", "text": "Hello there.", "annotations": [], "logprobs": []}]


def test_usage(served: Served) -> None:
    usage = answered(served, input="Hi")["usage"]
    assert usage["input_tokens"] == prompt_of(served, [{"role": "user", "content": "Hi"}])
    assert usage["output_tokens"] == len(served.encode("Hello there.")) - 1 + 1  # no beginning, but an end of sequence
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}
    long = "x" * 100
    answered(served, input=long)
    assert answered(served, input=long)["usage"]["input_tokens_details"]["cached_tokens"] >= 64


def test_what_was_asked_for_is_said_again(served: Served) -> None:
    asked: dict[str, Any] = {
        "instructions": "Be brief.",
        "max_output_tokens": 50,
        "metadata": {"run": "5"},
        "temperature": 0.25,
        "top_p": 0.5,
        "parallel_tool_calls": False,
        "store": False,
        "truncation": "disabled",
        "user": "somebody",
        "tool_choice": "none",
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "top_logprobs": 0,
    }
    response = answered(served, input="Hi", **asked)
    assert {name: response[name] for name in asked} == asked
    assert response["model"] == "tiny" and response["background"] is False


def test_defaults_are_said(served: Served) -> None:
    response = HTTP.post(f"{served.url}/v1/responses", json={"input": "Hi"}).json()
    defaults = {"temperature": 1.0, "top_p": 1.0, "store": True, "tool_choice": "auto", "tools": [], "truncation": "disabled"}
    assert {name: response[name] for name in defaults} == defaults
    assert response["reasoning"] == {"effort": None, "summary": None}
    assert response["previous_response_id"] is None and response["instructions"] is None


@pytest.mark.parametrize(
    ("items", "chat"),
    [
        ([{"role": "user", "content": "Hi"}], [{"role": "user", "content": "Hi"}]),
        ([{"type": "message", "role": "user", "content": "Hi"}], [{"role": "user", "content": "Hi"}]),
        ([{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}], [{"role": "user", "content": "Hi"}]),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}, {"type": "input_text", "text": "you"}]}],
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "you"}]}],
        ),
        (
            [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        ),
        (
            [
                {"role": "user", "content": "Hi"},
                {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
                 "content": [{"type": "output_text", "text": "Yes?", "annotations": [], "logprobs": []}]},
                {"role": "user", "content": "Hi"},
            ],
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Hi"}],
        ),
        (
            [
                {"role": "user", "content": "Hi"},
                {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
                {"role": "user", "content": "Hi"},
            ],
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No."}, {"role": "user", "content": "Hi"}],
        ),
    ],
)  # fmt: skip
def test_items_are_the_messages_of_a_chat(served: Served, items: list[Any], chat: list[Any]) -> None:
    assert answered(served, input=items)["usage"]["input_tokens"] == prompt_of(served, chat)


def test_instructions_are_the_systems(served: Served) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert answered(served, input="Hi", instructions="Be brief.")["usage"]["input_tokens"] == prompt_of(served, chat)


def test_reasoning_comes_back_within_its_turn(served: Served) -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Four."}]}
    items = [{"role": "user", "content": "2+2?"}, reasoning, said, {"role": "user", "content": "Sure?"}]
    chat = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "reasoning_content": "Hm.", "content": "Four."},
        {"role": "user", "content": "Sure?"},
    ]
    assert answered(served, input=items)["usage"]["input_tokens"] == prompt_of(served, chat)
    encrypted = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}
    plain = [chat[0], {"role": "assistant", "content": "Four."}, chat[2]]
    assert answered(served, input=[items[0], encrypted, *items[2:]])["usage"]["input_tokens"] == prompt_of(served, plain)


def test_the_limit_makes_it_incomplete(served: Served) -> None:
    response = answered(served, input="count", max_output_tokens=5)
    assert response["status"] == "incomplete" and response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete" and response["usage"]["output_tokens"] == 5
    assert response["completed_at"] is None
    assert "one two three".startswith(text_of(response))


def test_nothing_said_is_an_empty_message(served: Served) -> None:
    response = answered(served, input="nothing")
    assert text_of(response) == "" and response["status"] == "completed"


def test_fields_of_chats_count_here_too(served: Served) -> None:
    assert text_of(answered(served, input="count", stop=" three")) == "one two"
    assert answered(served, input="count", min_tokens=0, top_k=1, seed=3, chat_template_kwargs={})["status"] == "completed"
    z = served.tokenizer.token_to_id("Z")
    assert text_of(answered(served, input="Hi", logit_bias={str(z): 100}, max_output_tokens=3)) == "ZZZ"


def test_logprobs(served: Served) -> None:
    response = answered(served, input="Hi", include=["message.output_text.logprobs"], top_logprobs=2)
    logprobs = response["output"][0]["content"][0]["logprobs"]
    spelled = bytes(byte for token in logprobs for byte in token["bytes"]).decode()
    assert spelled.removesuffix("</s>") == "Hello there."
    assert all(len(token["top_logprobs"]) == 2 and token["logprob"] <= 0 for token in logprobs)
    assert not answered(served, input="Hi")["output"][0]["content"][0]["logprobs"]


def test_the_context_may_be_cut(served: Served) -> None:
    assert refused(served, input="x" * 5000)["code"] == "context_length_exceeded"
    usage = answered(served, input="x" * 5000, truncation="auto", max_output_tokens=10)["usage"]
    assert usage["input_tokens"] == 4096 - 10


@pytest.mark.parametrize(
    ("body", "param", "word"),
    [
        ({}, "input", "required"),
        ({"input": None}, "input", "required"),
        ({"input": 3}, "input", "a string or a list"),
        ({"input": []}, "input", "at least 1"),
        ({"input": ["Hi"]}, "input.0", "must be an item"),
        ({"input": [{"type": "web_search_call", "id": "ws"}]}, "input.0", "'web_search_call'"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0", "'item_reference'"),
        ({"input": [{"role": "king", "content": "Hi"}]}, "input.0.role", "'king'"),
        ({"input": [{"role": "user"}]}, "input.0.content", "required"),
        ({"input": [{"role": "user", "content": 3}]}, "input.0.content", "a string or a list"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input.0.content.0", "a text"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "a"}]}]},
         "input.0.content.0.type", "'input_image'"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "a"}]}]},
         "input.0.content.0.type", "'input_file'"),
        ({"input": [{"type": "function_call", "name": "a", "arguments": "{}"}]}, "input.0.call_id", "required"),
        ({"input": [{"type": "function_call_output", "call_id": "a"}]}, "input.0.output", "required"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "a", "arguments": {}}]}, "input.0.arguments", "a string"),
        ({"input": "Hi", "tools": [{"type": "web_search"}]}, "tools.0.type", "'web_search'"),
        ({"input": "Hi", "tools": [{"type": "mcp", "server_url": "a"}]}, "tools.0.type", "'mcp'"),
        ({"input": "Hi", "tools": [{"type": "function"}]}, "tools.0.name", "required"),
        ({"input": "Hi", "tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"input": "Hi", "tool_choice": {"type": "function", "name": "f"}}, "tool_choice", "'f'"),
        ({"input": "Hi", "tool_choice": "perhaps", "tools": [WEATHER]}, "tool_choice", "'required'"),
        ({"input": "Hi", "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
          "tools": [WEATHER]}, "tool_choice", "must name one"),
        ({"input": "Hi", "max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
        ({"input": "Hi", "max_output_tokens": 99_999}, "max_output_tokens", "must fit"),
        ({"input": "Hi", "temperature": -1}, "temperature", "at least 0"),
        ({"input": "Hi", "temperature": "hot"}, "temperature", "a number"),
        ({"input": "Hi", "top_p": 2}, "top_p", "1"),
        ({"input": "Hi", "top_logprobs": 21}, "top_logprobs", "20"),
        ({"input": "Hi", "stop": [""]}, "stop.0", "at least 1"),
        ({"input": "Hi", "truncation": "middle"}, "truncation", "'auto'"),
        ({"input": "Hi", "text": {"verbosity": "low"}}, "text.verbosity", "'medium'"),
        ({"input": "Hi", "store": "yes please"}, "store", "true or false"),
        ({"input": "Hi", "prompt": {"id": "pmpt_1"}}, "prompt", "null"),
        ({"input": "Hi", "background": True}, None, "background is not supported"),
        ({"input": "Hi", "conversation": "conv_1"}, None, "go on with previous_response_id"),
        ({"input": "Hi", "previous_response_id": "resp_1"}, "previous_response_id", "'resp_1'"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(served: Served, body: dict[str, Any], param: str | None, word: str) -> None:
    error = refused(served, **body)
    assert error["param"] == param and word in error["message"], error
    assert "response_format" not in error["message"] and "messages" not in error["message"]


def test_another_model(served: Served) -> None:
    answer = post(served, input="Hi", model="gpt-9")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    "fields",
    [
        {"include": ["reasoning.encrypted_content"]},
        {"service_tier": "auto", "safety_identifier": "a", "prompt_cache_key": "b", "max_tool_calls": 3},
        {"stream_options": None, "stream": False},
        {"stream_options": {"include_obfuscation": False}},
        {"reasoning": {"summary": "auto"}},
        {"tools": [], "tool_choice": "auto"},
        {"tools": None, "text": None, "include": None, "metadata": None, "previous_response_id": None},
        {"text": {"format": {"type": "text"}}},
        {"background": False, "conversation": None},
        {"context_management": [{"type": "compaction", "compact_threshold": 1000}]},
    ],
)
def test_what_asks_for_nothing_here_changes_nothing(served: Served, fields: dict[str, Any]) -> None:
    assert text_of(answered(served, input="Hi", **fields)) == "Hello there."


def test_the_official_client(served: Served) -> None:
    client = served.client()
    response = client.responses.create(model="tiny", input="emoji", temperature=0)
    assert response.output_text == "你好 😀!" and response.usage is not None
    assert client.responses.retrieve(response.id).output_text == "你好 😀!"
    with pytest.raises(openai.BadRequestError, match="previous_response_id must be"):
        client.responses.create(model="tiny", input="Hi", previous_response_id="resp_none")
