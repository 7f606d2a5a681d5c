"""/v1/messages over HTTP: what it takes, what it answers, and that its errors are Anthropic's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server.conftest import Served, running
from tests.server.speaking import HERMES_TEMPLATE, keyed

HTTP = httpx.Client(timeout=20)
USER = [{"role": "user", "content": "Hi"}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with running(speak=keyed, template=HERMES_TEMPLATE) as served:
        yield served


def post(served: Served, **body: Any) -> httpx.Response:
    fields = {"messages": USER, "max_tokens": 100, "temperature": 0} | body
    return HTTP.post(f"{served.url}/v1/messages", json={name: value for name, value in fields.items() if value is not ...})


def answered(served: Served, **body: Any) -> dict[str, Any]:
    answer = post(served, **body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def text_of(message: dict[str, Any]) -> str:
    (block,) = message["content"]
    assert block["type"] == "text"
    return str(block["text"])


def input_of(message: dict[str, Any]) -> int:
    return int(message["usage"]["input_tokens"] + message["usage"]["cache_read_input_tokens"])


def prompt_of(served: Served, messages: list[dict[str, Any]], **fields: Any) -> int:
    """How many tokens the same chat has by /tokenize."""
    return int(HTTP.post(f"{served.url}/tokenize", json={"messages": messages, **fields}).json()["count"])


def test_a_message_is_answered(served: Served) -> None:
    message = answered(served)
    assert message["id"].startswith("msg_") and message["type"] == "message" and message["role"] == "assistant"
    assert message["content"] == [{"type": "text", "text": "Hello there."}]
    assert (message["stop_reason"], message["stop_sequence"], message["model"]) == ("end_turn", None, "tiny")


def test_usage_counts_the_cache_apart(served: Served) -> None:
    turns = [{"role": "user", "content": "a" * 200}]
    answered(served, messages=turns)
    usage = answered(served, messages=turns)["usage"]
    assert usage["cache_read_input_tokens"] >= 192 and usage["cache_creation_input_tokens"] == 0
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == prompt_of(served, turns)
    assert usage["output_tokens"] == len(served.encode("Hello there.")) - 1 + 1
    assert usage["output_tokens_details"] == {"thinking_tokens": 0}


@pytest.mark.parametrize(
    ("body", "chat"),
    [
        ({"system": "Be brief."}, [{"role": "system", "content": "Be brief."}, *USER]),
        ({"system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
         [{"role": "system", "content": "Be brief."}, *USER]),
        ({"system": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]},
         [{"role": "system", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]}, *USER]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}, USER),
        ({"messages": [{"role": "system", "content": "Be brief."}, *USER]},
         [{"role": "system", "content": "Be brief."}, *USER]),
        ({"messages": [*USER, {"role": "assistant", "content": [{"type": "text", "text": "Yes"},
                                                               {"type": "text", "text": "?"}]}, *USER]},
         [*USER, {"role": "assistant", "content": "Yes?"}, *USER]),
        ({"messages": [*USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "s"},
                                                               {"type": "text", "text": "Yes?"}]}, *USER]},
         [*USER, {"role": "assistant", "reasoning_content": "Hm.", "content": "Yes?"}, *USER]),
        ({"messages": [*USER, {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"},
                                                               {"type": "text", "text": "Yes?"}]}, *USER]},
         [*USER, {"role": "assistant", "content": "Yes?"}, *USER]),
    ],
)  # fmt: skip
def test_turns_are_the_messages_of_a_chat(served: Served, body: dict[str, Any], chat: list[Any]) -> None:
    assert input_of(answered(served, **body)) == prompt_of(served, chat)


def test_a_last_turn_of_the_assistant_is_gone_on_with(served: Served) -> None:
    turns = [*USER, {"role": "assistant", "content": "Hello"}]
    message = answered(served, messages=turns)
    assert text_of(message) == " there."
    assert input_of(message) == prompt_of(served, turns, continue_final_message=True)


def test_more_tokens_than_the_context_has_end_at_its_end(served: Served) -> None:
    """Agents ask for 32,000 of every model. As Anthropic's newest models do, the answer then ends where the context does."""
    window = httpx.get(f"{served.url}/v1/models", timeout=20).json()["data"][0]["max_model_len"]
    long = [{"role": "user", "content": "x" * (window - 100)}]
    filled = answered(served, messages=long, max_tokens=99_999, ignore_eos=True, logit_bias={str(ord("Z")): 100})
    num_tokens = filled["usage"]["input_tokens"] + filled["usage"]["output_tokens"]
    assert (filled["stop_reason"], num_tokens) == ("model_context_window_exceeded", window)
    assert answered(served, max_tokens=99_999)["stop_reason"] == "end_turn"


def test_stop_reasons(served: Served) -> None:
    count = [{"role": "user", "content": "count"}]
    cut = answered(served, messages=count, max_tokens=5)
    assert (cut["stop_reason"], cut["stop_sequence"], cut["usage"]["output_tokens"]) == ("max_tokens", None, 5)
    stopped = answered(served, messages=count, stop_sequences=["never", " three"])
    assert (stopped["stop_reason"], stopped["stop_sequence"], text_of(stopped)) == ("stop_sequence", " three", "one two")
    special = answered(served, messages=count, stop_sequences=["</s>"])
    assert special["stop_reason"] in ("end_turn", "stop_sequence")
    assert answered(served, messages=[{"role": "user", "content": "nothing"}])["content"] == []


def test_sampling_fields_count(served: Served) -> None:
    z = served.tokenizer.token_to_id("Z")
    assert text_of(answered(served, max_tokens=3, logit_bias={str(z): 100})) == "ZZZ"
    assert text_of(answered(served, top_k=1, top_p=0.5, temperature=2, seed=4)) == "Hello there."


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"user_id": "somebody"}},
        {"service_tier": "auto", "inference_geo": "eu", "cache_control": {"type": "ephemeral"}, "speed": "standard"},
        {"tools": [], "stop_sequences": [], "stream": False},
        {"system": None, "tools": None, "tool_choice": None, "thinking": None, "stop_sequences": None, "metadata": None},
        {"thinking": {"type": "disabled"}},
        {"output_config": {}},
        {"context_management": {"edits": []}, "mcp_servers": [], "container": None},
        {"tool_choice": {"type": "auto"}},
        {"tool_choice": {"type": "none"}},
    ],
)
def test_what_asks_for_nothing_here_changes_nothing(served: Served, fields: dict[str, Any]) -> None:
    assert text_of(answered(served, **fields)) == "Hello there."


def user(*blocks: Any) -> list[Any]:
    return [{"role": "user", "content": list(blocks)}]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"max_tokens": ...}, ("max_tokens is required",)),
        ({"max_tokens": 0}, ("max_tokens must be", "got 0")),
        ({"max_tokens": "many"}, ("max_tokens must be an integer",)),
        ({"messages": ...}, ("messages is required",)),
        ({"messages": []}, ("messages must be a list of at least 1",)),
        ({"messages": "Hi"}, ("messages must be a list",)),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, ("messages.0.role", "'tool'")),
        ({"messages": [{"role": "user"}]}, ("messages.0.content is required",)),
        ({"messages": [{"role": "user", "content": 3}]}, ("messages.0.content must be a string or a list",)),
        ({"messages": user({"type": "image", "source": {}})}, ("messages.0.content.0", "'image'", "only text")),
        ({"messages": user({"type": "document", "source": {}})}, ("messages.0.content.0", "'document'")),
        ({"messages": user("Hi")}, ("messages.0.content.0", "'Hi'")),
        ({"messages": user({"type": "text"})}, ("messages.0.content.0.text is required",)),
        ({"messages": user({"type": "tool_result", "content": "a"})}, ("messages.0.content.0.tool_use_id is required",)),
        ({"messages": user({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]})},
         ("messages.0.content.0.content.0", "'image'")),
        ({"messages": user({"type": "tool_use", "id": "a", "name": "b", "input": {}})}, ("messages.0", "'user'", "'tool_use'")),
        ({"messages": [*USER, {"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]},
         ("messages.1", "'tool_result'")),
        ({"messages": [*USER, {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": "{}"}]}]},
         ("messages.1.content.0.input", "an object")),
        ({"system": 3}, ("system must be a string or a list",)),
        ({"system": [{"type": "image"}]}, ("system.0", "'image'")),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, ("tools.0.type", "'web_search_20250305'")),
        ({"tools": [{"name": "f"}]}, ("tools.0.input_schema is required",)),
        ({"tool_choice": {"type": "any"}}, ("tool_choice 'any' needs tools",)),
        ({"tool_choice": {"type": "tool"}, "tools": [WEATHER]}, ("tool_choice must have a name",)),
        ({"tool_choice": {"type": "some"}, "tools": [WEATHER]}, ("tool_choice.type", "'some'")),
        ({"stop_sequences": [""]}, ("stop_sequences.0",)),
        ({"stop_sequences": ["a"] * 33}, ("stop_sequences", "32")),
        ({"temperature": -1}, ("temperature must be at least 0",)),
        ({"top_p": 3}, ("top_p",)),
        ({"thinking": {"type": "perhaps"}}, ("thinking.type", "'perhaps'")),
        ({"output_config": {"format": {"type": "regex"}}}, ("output_config.format",)),
        ({"container": "c"}, ("container is not supported",)),
        ({"mcp_servers": [{"url": "a"}]}, ("mcp_servers is not supported",)),
        ({"stream": "yes please"}, ("stream must be true or false",)),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(served: Served, body: dict[str, Any], words: tuple[str, ...]) -> None:
    answer = post(served, **body)
    assert answer.status_code == 400, answer.text
    said = answer.json()
    assert said["type"] == "error" and said["error"].keys() == {"type", "message"}
    assert said["error"]["type"] == "invalid_request_error"
    assert all(word in said["error"]["message"] for word in words), said
    assert "max_completion_tokens" not in said["error"]["message"]


def error_of(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status and answer.json()["type"] == "error"
    return str(answer.json()["error"]["type"])


def test_other_errors_have_the_same_shape(served: Served, run_server: Any) -> None:
    assert error_of(post(served, model="claude"), 404) == "not_found_error"
    path = f"{served.url}/v1/messages"
    assert error_of(HTTP.get(path), 405) == "invalid_request_error"
    assert error_of(HTTP.get(f"{path}/batches"), 404) == "not_found_error"
    headers = {"content-type": "application/json"}
    assert error_of(HTTP.post(path, content=b"{", headers=headers), 400) == "invalid_request_error"
    with run_server(api_key="sesame", max_body_bytes=1000, speak=keyed) as guarded:
        path = f"{guarded.url}/v1/messages"
        body = {"messages": USER, "max_tokens": 5}
        assert error_of(HTTP.post(path, json=body), 401) == "authentication_error"
        headers = {"x-api-key": "sesame"}
        assert HTTP.post(path, json=body, headers=headers).status_code == 200
        assert error_of(HTTP.post(path, json=body | {"system": "x" * 2000}, headers=headers), 413) == "request_too_large"
        guarded.server.loading.app.state.service.draining = True
        answer = HTTP.post(path, json=body, headers=headers)
        assert error_of(answer, 503) == "overloaded_error" and answer.headers["retry-after"]


def test_tokens_are_counted(served: Served) -> None:
    def count(**body: Any) -> httpx.Response:
        return HTTP.post(f"{served.url}/v1/messages/count_tokens", json={"messages": USER} | body)

    assert count().json() == {"input_tokens": prompt_of(served, USER)}
    chat = [{"role": "system", "content": "Be brief."}, *USER]
    assert count(system="Be brief.").json() == {"input_tokens": prompt_of(served, chat)}
    long = [{"role": "user", "content": "x" * 6000}]
    assert count(messages=long).json() == {"input_tokens": prompt_of(served, long)}
    assert error_of(count(model="claude"), 404) == "not_found_error"
    assert error_of(count(messages=[]), 400) == "invalid_request_error"


def test_a_turn_without_blocks_has_no_text(served: Served) -> None:
    body = {"messages": [{"role": "user", "content": []}]}
    empty = HTTP.post(f"{served.url}/v1/messages/count_tokens", json={"messages": [{"role": "user", "content": ""}]})
    assert HTTP.post(f"{served.url}/v1/messages/count_tokens", json=body).json() == empty.json()
