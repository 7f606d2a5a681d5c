"""Every status that is not 200, as the official client sees it."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.server.conftest import limits

USER = [{"role": "user", "content": "Hi"}]


def chat(served: Any, **options: Any) -> Any:
    return served.client().chat.completions.create(**{"model": "tiny", "messages": USER, "max_tokens": 5} | options)


def body_of(error: openai.APIStatusError) -> dict[str, Any]:
    body = error.response.json()["error"]
    assert body.keys() == {"message", "type", "param", "code"}
    return dict(body)


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"temperature": -1}, "temperature", "at least 0"),
        ({"top_p": 0}, "top_p", "above 0"),
        ({"extra_body": {"top_k": "many"}}, "top_k", "integer"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 5000}, "max_tokens", "506 tokens are left"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages", "text"),
        ({"top_logprobs": 2}, None, "needs logprobs"),
        ({"stop": ["a", ""]}, "stop.1", "at least 1 character"),
        ({"logit_bias": {"99999": 1}}, None, "logit_bias"),
        ({"logit_bias": {"5": 1000}}, "logit_bias.5", "less than or equal to 100"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'text', 'json_object' or 'json_schema'"),
        ({"extra_body": {"guided_regex": "a("}}, "guided_regex", "guided_regex cannot be followed"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name", "is required"),
        ({"tool_choice": "required"}, None, "needs tools"),
        ({"functions": [{"name": "f"}]}, None, "functions is not supported"),
        ({"extra_body": {"stream_options": {"include_usage": True}}}, None, "stream_options needs stream"),
        ({"extra_body": {"min_tokens": 9}}, "min_tokens", "between 0 and max_tokens"),
        ({"extra_body": {"add_generation_prompt": True, "continue_final_message": True}}, "messages", "exclude each other"),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, "messages", "may not set messages"),
        ({"messages": [{"role": "user", "content": "x" * 600}]}, None, "512"),
    ],
)
def test_400(served: Any, options: dict[str, Any], param: str | None, message: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(served, **options)
    body = body_of(caught.value)
    assert body["type"] == "invalid_request_error"
    assert body["param"] == param
    assert message in body["message"]


def test_context_length_has_its_code(served: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        served.client().completions.create(model="tiny", prompt="x" * 600)
    assert body_of(caught.value)["code"] == "context_length_exceeded"


@pytest.mark.parametrize("options", [{"prompt": []}, {"prompt": [[]]}, {"prompt": [9999]}, {"prompt": "a", "best_of": 4}, {}])
def test_400_completions(served: Any, options: dict[str, Any]) -> None:
    assert httpx.post(f"{served.url}/v1/completions", json=options).status_code == 400


def test_broken_json_and_wrong_paths(served: Any) -> None:
    for answer, status in (
        (httpx.post(f"{served.url}/v1/completions", content=b"{", headers={"content-type": "application/json"}), 400),
        (httpx.get(f"{served.url}/v1/nothing"), 404),
        (httpx.get(f"{served.url}/v1/completions"), 405),
    ):
        assert answer.status_code == status
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


def test_404_for_another_model(served: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        chat(served, model="huge")
    assert body_of(caught.value)["code"] == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        served.client().models.retrieve("huge")
    assert httpx.post(f"{served.url}/tokenize", json={"model": "huge", "prompt": "a"}).status_code == 404


def test_unknown_fields_are_accepted_and_logged(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="runtime.server"):
        assert chat(served, extra_body={"flux_capacity": 3}).choices
    assert any("flux_capacity" in record.getMessage() for record in caplog.records)


def test_401_only_with_a_key(run_server: Any) -> None:
    with run_server(api_key="sesame") as served:
        with pytest.raises(openai.AuthenticationError) as caught:
            chat(served)
        assert body_of(caught.value)["code"] == "invalid_api_key"
        assert openai.OpenAI(base_url=f"{served.url}/v1", api_key="sesame").models.list().data
        for path in ("/health", "/metrics", "/version"):
            assert httpx.get(served.url + path).status_code == 200
        assert httpx.post(f"{served.url}/tokenize", json={"prompt": "a"}).status_code == 401


def test_413_with_and_without_a_length(run_server: Any) -> None:
    with run_server(max_body_bytes=1000) as served:
        body = json.dumps({"prompt": "x" * 2000}).encode()
        headers = {"content-type": "application/json"}
        for content in (body, (body[i : i + 100] for i in range(0, len(body), 100))):
            answer = httpx.post(f"{served.url}/v1/completions", content=content, headers=headers)
            assert answer.status_code == 413
            assert "1000 bytes" in answer.json()["error"]["message"]


def test_429_when_the_queue_is_full(run_server: Any, wait: Any) -> None:
    with run_server(max_num_waiting=1, runner_options=limits(max_num_seqs=1) | {"step_time_s": 0.01}) as served:
        answers: list[Any] = []
        threads = [threading.Thread(target=lambda: answers.append(chat(served, max_tokens=40))) for _ in range(2)]
        threads[0].start()
        wait(lambda: served.engine.stats().num_running == 1)
        threads[1].start()
        wait(lambda: served.engine.stats().num_waiting == 1)
        with pytest.raises(openai.RateLimitError) as caught:
            chat(served)
        assert caught.value.response.headers["retry-after"] == "1"
        assert body_of(caught.value)["code"] == "queue_full"
        with pytest.raises(openai.RateLimitError):
            chat(served, stream=True)
        for thread in threads:
            thread.join()
        assert len(answers) == 2


def test_n_is_all_or_none(run_server: Any, wait: Any) -> None:
    with run_server(max_num_waiting=2, runner_options=limits(max_num_seqs=1) | {"step_time_s": 0.01}) as served:
        threads = [threading.Thread(target=lambda: chat(served, max_tokens=40)) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait(lambda: served.engine.stats().num_waiting == 1)
        with pytest.raises(openai.RateLimitError):
            chat(served, n=2)
        assert served.engine.stats().num_waiting <= 1
        for thread in threads:
            thread.join()
        assert len(chat(served, n=2).choices) == 2


def test_no_chat_template(run_server: Any) -> None:
    with run_server(template=None) as served, pytest.raises(openai.BadRequestError, match="no chat template"):
        chat(served)


def test_the_templates_own_refusal(run_server: Any) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    with run_server(template=template) as served, pytest.raises(openai.BadRequestError, match="roles must alternate"):
        chat(served)


def test_a_bug_is_no_fault_of_the_request(run_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy's own ValueError, where a request is prepared, is a 500 of the server and not a 400 of the client."""
    monkeypatch.setattr("runtime.prompts.Prompts.encode", lambda *_, **__: np.zeros(3) + np.zeros(4))
    with run_server() as served:
        answer = httpx.post(f"{served.url}/v1/completions", json={"prompt": "a"})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error" and "ValueError" in answer.json()["error"]["message"]
