"""What client libraries send without meaning anything by it: nulls, zeros, empty lists and their own defaults."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from runtime.server.protocol_chat import ChatCompletionBody
from runtime.server.protocol_completion import CompletionBody

USER = [{"role": "user", "content": "Hi"}]
PROMPT = "<|user|>Hi<|end|><|assistant|>"
HTTP = httpx.Client(timeout=20)


def chat(served: Any, **fields: Any) -> dict[str, Any]:
    body = {"messages": USER, "max_tokens": 4, "temperature": 0} | fields
    return accepted(HTTP.post(f"{served.url}/v1/chat/completions", json=body))


def complete(served: Any, **fields: Any) -> dict[str, Any]:
    body = {"prompt": "Hi", "max_tokens": 4, "temperature": 0} | fields
    return accepted(HTTP.post(f"{served.url}/v1/completions", json=body))


def accepted(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": False, "top_logprobs": 0},
        {"logprobs": None, "top_logprobs": None},
        {"top_logprobs": 0},
        {"tools": [], "tool_choice": "none"},
        {"tools": None, "tool_choice": "auto", "parallel_tool_calls": None},
        {"functions": [], "function_call": "none"},
        {"functions": None, "function_call": None},
        {"stop": []},
        {"stop": ""},
        {"stop": None},
        {"stop_token_ids": []},
        {"logit_bias": {}},
        {"stream": False, "stream_options": None},
        {"stream": False, "stream_options": {}},
        {"stream": False, "stream_options": {"include_usage": False}},
        {"n": 1},
        {"n": None},
        {"response_format": {"type": "text"}},
        {"response_format": {}},
        {"model": ""},
        {"user": ""},
        {"metadata": {}, "store": False, "service_tier": None},
        {"chat_template_kwargs": {}},
        {"documents": [], "reasoning_effort": None},
        {"frequency_penalty": 0, "presence_penalty": 0, "repetition_penalty": 1, "min_p": 0, "top_p": 1, "top_k": 0},
        {"top_k": -1},
        {"seed": None, "min_tokens": 0},
    ],
)
def test_forms_that_ask_for_nothing_change_nothing(served: Any, fields: dict[str, Any]) -> None:
    plain = served.recited(len(served.encode(PROMPT)), 4)
    assert chat(served, **fields)["choices"][0]["message"]["content"] == plain


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": None},
        {"logprobs": False},
        {"echo": False, "best_of": 1, "suffix": None},
        {"best_of": None, "suffix": ""},
        {"best_of": 0},
        {"stop": "", "logit_bias": {}, "stream_options": {}},
    ],
)
def test_completions_too(served: Any, fields: dict[str, Any]) -> None:
    choice = complete(served, **fields)["choices"][0]
    assert choice["text"] == served.recited(len(served.encode("Hi")), 4)
    assert choice["logprobs"] is None


@pytest.mark.parametrize("body", [ChatCompletionBody, CompletionBody])
def test_every_optional_field_may_be_null(served: Any, body: Any) -> None:
    optional = [name for name, field in body.model_fields.items() if not field.is_required()]
    send = chat if body is ChatCompletionBody else complete
    nulls = dict.fromkeys(optional) | {"max_tokens": 4, "temperature": 0}
    assert send(served, **nulls)["usage"]["completion_tokens"] == 4
    for name in optional:
        send(served, **{name: None, "max_tokens": 4})


@pytest.mark.parametrize(
    "extra",
    [
        {"tool_calls": None},
        {"tool_calls": []},
        {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None},
        {"name": "helper"},
        {"name": None},
        {"reasoning_content": None, "reasoning": None},
        {"tool_call_id": None},
    ],
)
def test_an_assistant_turn_comes_back_as_clients_keep_it(served: Any, extra: dict[str, Any]) -> None:
    turn = {"role": "assistant", "content": "Yes?"}
    plain = chat(served, messages=[*USER, turn, *USER])
    assert chat(served, messages=[*USER, turn | extra, *USER])["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


def test_an_answer_of_the_official_client_is_a_message(served: Any) -> None:
    client = served.client()
    first = client.chat.completions.create(model="tiny", messages=USER, max_tokens=4).choices[0].message
    again = client.chat.completions.create(model="tiny", messages=[*USER, first, *USER], max_tokens=4)
    whole = client.chat.completions.create(model="tiny", messages=[*USER, first.model_dump(), *USER], max_tokens=4)
    assert again.usage.prompt_tokens == whole.usage.prompt_tokens


@pytest.mark.parametrize(("max_tokens", "kept"), [(4, 508), (1, 511), (0, 512), (None, 496), (511, 1)])
def test_truncation_to_the_context_leaves_room_for_the_answer(served: Any, max_tokens: int | None, kept: int) -> None:
    ids = served.encode("x" * 600)[: 512 + 5]
    usage = complete(served, prompt=ids, truncate_prompt_tokens=-1, max_tokens=max_tokens)["usage"]
    assert usage["prompt_tokens"] == kept
    assert usage["completion_tokens"] == (16 if max_tokens is None else max_tokens)


@pytest.mark.parametrize(("fields", "num_answer_tokens"), [({"max_tokens": 4}, 4), ({"max_completion_tokens": 9}, 9), ({}, 16)])
def test_in_chats_too(served: Any, fields: dict[str, Any], num_answer_tokens: int) -> None:
    messages = [{"role": "user", "content": "x" * 600}]
    usage = chat(served, **{"messages": messages, "truncate_prompt_tokens": -1, "max_tokens": None} | fields)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (512 - num_answer_tokens, num_answer_tokens)


def test_truncation_leaves_short_prompts_alone(served: Any) -> None:
    assert complete(served, prompt="Hi", truncate_prompt_tokens=-1)["usage"]["prompt_tokens"] == len(served.encode("Hi"))


def test_an_answer_longer_than_the_context_is_still_refused(served: Any) -> None:
    body = {"prompt": "x" * 600, "truncate_prompt_tokens": -1, "max_tokens": 5000}
    answer = HTTP.post(f"{served.url}/v1/completions", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "max_tokens"


def test_tokenize_takes_the_null_of_its_other_form(served: Any) -> None:
    text = accepted(HTTP.post(f"{served.url}/tokenize", json={"prompt": "Hi", "messages": None}))
    assert text["tokens"] == served.encode("Hi")
    turns = accepted(HTTP.post(f"{served.url}/tokenize", json={"prompt": None, "messages": USER}))
    assert turns["tokens"] == served.encode(PROMPT)
