"""Fields of other servers: harmless ones pass in silence, those that would change the answer are refused, others are logged."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import openai
import pytest
from openai.types import completion_create_params
from openai.types.chat import chat_completion_stream_options_param
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from runtime.server.protocol_chat import ChatCompletionBody
from runtime.server.protocol_completion import CompletionBody
from runtime.server.protocol_generation import StreamOptions
from runtime.server.protocol_responses import ResponsesBody
from runtime.server.unserved import HARMLESS, REFUSED

USER = [{"role": "user", "content": "Hi"}]
HTTP = httpx.Client(timeout=20)


def chat(served: Any, **fields: Any) -> httpx.Response:
    return HTTP.post(f"{served.url}/v1/chat/completions", json={"messages": USER, "max_tokens": 1} | fields)


def ignored(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "ignored" in record.getMessage()]


@pytest.mark.parametrize(
    ("params", "body"),
    [
        (chat_create_params.CompletionCreateParamsBase, ChatCompletionBody),
        (completion_create_params.CompletionCreateParamsBase, CompletionBody),
        (response_create_params.ResponseCreateParamsBase, ResponsesBody),
        (chat_completion_stream_options_param.ChatCompletionStreamOptionsParam, StreamOptions),
    ],
)
def test_every_field_of_the_official_client_is_decided_on(params: Any, body: Any) -> None:
    as_in_chats = ChatCompletionBody.model_fields.keys() if body is ResponsesBody else set()
    assert set(params.__annotations__) <= body.model_fields.keys() | as_in_chats | HARMLESS | REFUSED.keys()


def test_a_field_is_decided_on_once() -> None:
    assert not HARMLESS & REFUSED.keys()


@pytest.mark.parametrize(
    "fields",
    [
        {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
        {"modalities": ["audio"]},
        {"audio": {"voice": "alloy"}},
        {"web_search_options": {}},
        {"web_search_options": {"search_context_size": "low"}},
        {"functions": [{"name": "f"}]},
        {"function_call": {"name": "f"}},
        {"prompt_embeds": "AAAA"},
        {"use_beam_search": True},
        {"logits_processors": ["f"]},
        {"allowed_token_ids": [5]},
        {"bad_words": ["no"]},
        {"prompt_logprobs": 1},
        {"chat_template": "{{ messages }}"},
        {"echo": True},
        {"suffix": "end"},
        {"verbosity": "low"},
        {"truncation_side": "right"},
        {"return_token_ids": True},
    ],
)
def test_what_would_change_the_answer_is_refused_and_not_logged(
    served: Any, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    answer = chat(served, **fields)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert "supported" in message and message.startswith(next(iter(fields))) and len(message) < 300
    assert not ignored(caplog)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_field_that_asks_for_nothing_passes(served: Any, name: str, caplog: pytest.LogCaptureFixture) -> None:
    for value in REFUSED[name].passes:
        assert chat(served, **{name: value}).status_code == 200, (name, value)
    assert chat(served, **{name: {"a": [1]}}).status_code == 400
    assert not ignored(caplog)


def test_harmless_fields_pass_in_silence(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    harmless = {
        "modalities": ["text"],
        "prediction": {"type": "content", "content": "Hello"},
        "store": True,
        "metadata": {"run": "5"},
        "user": "somebody",
        "service_tier": "auto",
        "prompt_cache_key": "a",
        "safety_identifier": "b",
        "verbosity": "medium",
    }
    assert chat(served, **harmless).status_code == 200
    assert chat(served, **{name: {"any": ["thing"]} for name in HARMLESS - {"user"}}).status_code == 200
    assert not ignored(caplog)


def test_unknown_names_stay_on_one_short_line(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    forged = "x\nERROR: the disk is full\u2028\x1b[31m"
    fields = {forged: 1, "y" * 789_000: 1, **{f"unknown_{i}": i for i in range(1000)}}
    with caplog.at_level(logging.WARNING, logger="runtime.server"):
        answer = chat(served, **fields, stream=True, stream_options={forged: 1}, response_format={"type": "text", forged: {}})
    assert answer.status_code == 200
    (line,) = ignored(caplog)
    assert line.isprintable() and len(line) < 1000
    assert "1004 unknown fields" in line and "and 996 more" in line and "x\\nERROR" in line


def test_nested_unknown_fields_are_named_by_path(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert chat(served, stream=True, stream_options={"include_usage": True, "include_tea": True}).status_code == 200
    assert any("stream_options.include_tea" in line for line in ignored(caplog))


def test_reasoning_effort_and_documents_reach_the_template(run_server: Any) -> None:
    template = "{{ reasoning_effort }} {{ documents[0].text if documents }} {{ messages[0].content }}"
    with run_server(template=template) as served:
        body = {"messages": USER, "reasoning_effort": "low", "documents": [{"text": "D"}]}
        tokens = HTTP.post(f"{served.url}/tokenize", json=body).json()["tokens"]
        text = HTTP.post(f"{served.url}/detokenize", json={"tokens": tokens}).json()["prompt"]
        assert text == "low D Hi"
        own = HTTP.post(f"{served.url}/tokenize", json=body | {"chat_template_kwargs": {"reasoning_effort": "high"}}).json()
        assert own["count"] == len(served.encode("high D Hi")) - 1  # without the beginning of sequence


def test_the_official_client_raises_its_own_error(served: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="web_search_options is not supported here"):
        served.client().chat.completions.create(model="tiny", messages=USER, web_search_options={})
