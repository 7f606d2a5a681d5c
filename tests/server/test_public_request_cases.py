"""Requests that broke servers of this kind, from public reports; the oracle is the official client.

Answers must validate as its types, refusals must be its exceptions, and the server must go on afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

CHAT, COMPLETION = ChatCompletion, Completion
PATHS = {CHAT: "/chat/completions", COMPLETION: "/completions"}
USER = {"role": "user", "content": "Hi"}
BASE: dict[Any, dict[str, Any]] = {
    CHAT: {"model": "tiny", "messages": [USER], "max_tokens": 4, "temperature": 0},
    COMPLETION: {"model": "tiny", "prompt": "Hi", "max_tokens": 4, "temperature": 0},
}


def anything(_: Any) -> bool:
    return True


def scored(num_tokens: int, num_top: int) -> Callable[[ChatCompletion], bool]:
    """Log-probabilities of so many tokens, each with so many alternatives."""

    def holds(answer: ChatCompletion) -> bool:
        logprobs = answer.choices[0].logprobs
        content = (logprobs and logprobs.content) or []
        return [len(token.top_logprobs) for token in content] == [num_top] * num_tokens

    return holds


@dataclass(frozen=True)
class Case:
    """What was sent, by whose report; the exception that it must raise, or what must hold for its answer."""

    report: str
    endpoint: type[ChatCompletion] | type[Completion]
    fields: dict[str, Any]
    error: type[openai.APIStatusError] | None = None
    words: str = ""
    holds: Callable[[Any], bool] = field(default=anything)


def refused(report: str, endpoint: Any, words: str, **fields: Any) -> Case:
    return Case(report, endpoint, fields, openai.BadRequestError, words)


def taken(report: str, endpoint: Any, holds: Callable[[Any], bool] = anything, **fields: Any) -> Case:
    return Case(report, endpoint, fields, holds=holds)


CASES = [
    # Ids that no vocabulary has, as prompts, stops and keys of biases.
    refused("https://github.com/vllm-project/vllm/pull/51795", COMPLETION, "prompt.0", prompt=[-1]),
    refused("https://github.com/vllm-project/vllm/pull/35231", COMPLETION, "prompt.0.0", prompt=[[-1]]),
    refused("https://github.com/vllm-project/vllm/issues/26797", COMPLETION, "prompt.0", prompt=[5279552648203111001]),
    refused("https://github.com/vllm-project/vllm/pull/9634", COMPLETION, "must be between 0", prompt=[5, 32000], echo=True),
    refused("https://github.com/vllm-project/vllm/pull/16529", CHAT, "logit_bias", logit_bias={"191222": -100, "99999": 5}),
    refused("https://github.com/vllm-project/vllm/issues/54195", CHAT, "stop token ids", stop_token_ids=[151645], min_tokens=1),
    # Numbers at the edge.
    taken("https://github.com/vllm-project/vllm/pull/2937", COMPLETION, temperature=1e-4),
    taken("https://github.com/microsoft/aici/issues/19", COMPLETION, temperature=1e-300),
    taken("https://github.com/ggml-org/llama.cpp/issues/9842", COMPLETION, temperature=1e6),
    # Log-probabilities.
    taken("https://github.com/vllm-project/vllm/issues/4795", CHAT, scored(4, 0), logprobs=True),
    taken("https://github.com/vllm-project/vllm/pull/47838", CHAT, scored(4, 0), logprobs=True, top_logprobs=None),
    taken("https://github.com/sgl-project/sglang/issues/4440", CHAT, scored(4, 3), logprobs=True, top_logprobs=3),
    taken("https://github.com/InternLM/lmdeploy/pull/4121", CHAT, scored(0, 0), logprobs=False, top_logprobs=0),
    refused("https://github.com/deepseek-ai/DeepSeek-V2/issues/9", CHAT, "needs logprobs", logprobs=False, top_logprobs=2),
    taken(
        "https://github.com/vllm-project/vllm/issues/6521",
        COMPLETION,
        lambda answer: answer.choices[0].text == "Hi" and answer.choices[0].logprobs.token_logprobs[0] is None,
        echo=True,
        logprobs=1,
        max_tokens=0,
    ),
    taken(
        "https://github.com/vllm-project/vllm/issues/10234",
        COMPLETION,
        lambda answer: answer.choices[0].text.startswith("Hi") and len(answer.choices[0].logprobs.tokens) == 7,
        echo=1,
        logprobs=1,
        temperature=1,
        top_k=1,
    ),
    # Fields that clients send though they ask for nothing.
    taken(
        "https://github.com/huggingface/text-generation-inference/issues/3155",
        CHAT,
        stream_options=None,
        function_call=None,
        functions=None,
        tool_choice="none",
        tools=None,
    ),
    taken("https://github.com/local-inference-lab/vllm/pull/193", CHAT, tools=[], tool_choice="auto"),
    refused("https://github.com/vllm-project/vllm/pull/21052", CHAT, "tool_choice", tools=[], tool_choice="required"),
    taken("https://github.com/mlc-ai/mlc-llm/pull/2070", CHAT, stop=""),
    taken("https://github.com/sbintuitions/flexeval/pull/188", CHAT, stop=[]),
    taken("https://github.com/raullenchai/Rapid-MLX/issues/2358", CHAT, stop="STOP"),
    taken("https://github.com/vllm-project/vllm/pull/10463", CHAT, some_extra=1),
    taken(
        "https://github.com/microsoft/autogen/issues/3120",
        CHAT,
        messages=[USER, {"role": "assistant", "content": "e2e4", "function_call": None, "tool_calls": []}, USER],
    ),
    refused(
        "https://github.com/BerriAI/litellm/issues/29431",
        CHAT,
        "stream_options needs stream",
        stream_options={"include_usage": True},
    ),
    taken(
        "https://github.com/vllm-project/vllm/issues/11363",
        CHAT,
        response_format={"type": "json_object", "schema": {"type": "object"}},
    ),
    # Prompts beyond the context.
    refused("https://github.com/vllm-project/vllm/issues/20409", CHAT, "512", messages=[USER | {"content": "x" * 2000}]),
    taken(
        "https://github.com/vllm-project/vllm/issues/22635",
        COMPLETION,
        lambda answer: answer.usage.prompt_tokens == 508 and answer.usage.completion_tokens == 4,
        prompt="x" * 2000,
        truncate_prompt_tokens=-1,
    ),
]


@pytest.fixture(scope="module")
def client(served: Any) -> openai.OpenAI:
    official: openai.OpenAI = served.client()
    return official


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.report.removeprefix("https://github.com/"))
def test_request(client: openai.OpenAI, case: Case) -> None:
    def send(fields: dict[str, Any]) -> Any:
        answer = client.post(PATHS[case.endpoint], cast_to=case.endpoint, body=BASE[case.endpoint] | fields)
        if "echo" not in fields:  # OpenAI's null for a prompt's first token is not in its client's types
            case.endpoint.model_validate(answer.model_dump())
        return answer

    if case.error is None:
        assert case.holds(send(case.fields))
    else:
        with pytest.raises(case.error) as caught:
            send(case.fields)
        assert caught.value.type == "invalid_request_error" and case.words in caught.value.message
    assert send({}).choices[0].finish_reason == "length", "the server goes on"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none(client: openai.OpenAI, number: str) -> None:
    """https://github.com/sgl-project/sglang/pull/28153: one such temperature ended the server."""
    body = f'{{"model": "tiny", "prompt": "Hi", "temperature": {number}}}'.encode()
    with pytest.raises(openai.BadRequestError, match=r"not JSON|finite"):
        client.post("/completions", cast_to=object, content=body, options={"headers": {"Content-Type": "application/json"}})
    assert client.completions.create(model="tiny", prompt="Hi").choices


def test_a_body_without_its_type(client: openai.OpenAI) -> None:
    """https://github.com/vllm-project/vllm/issues/11171: curl's default type gave 500."""
    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}'
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    with pytest.raises(openai.BadRequestError, match="Content-Type: application/json"):
        client.post("/chat/completions", cast_to=object, content=body, options={"headers": headers})


def test_a_base_url_without_v1(served: Any) -> None:
    """https://github.com/abetlen/llama-cpp-python/issues/1032: a bare 404 that nobody could read."""
    client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError, match="/v1/chat/completions"):
        client.chat.completions.create(model="tiny", messages=[USER])


def test_the_scheme_of_a_key_in_any_case(run_server: Any) -> None:
    """https://github.com/jetkvm/cloud-api/pull/85 and https://github.com/SamSaffron/term-llm/pull/414."""
    with run_server(api_key="sesame") as served:
        for scheme in ("bearer", "BEARER", "Bearer "):
            assert served.client(default_headers={"Authorization": f"{scheme} sesame"}).models.list().data[0].id == "tiny"
        with pytest.raises(openai.AuthenticationError):
            served.client(default_headers={"Authorization": "bearer Sesame"}).models.list()


def test_empty_stream_options_give_no_usage(client: openai.OpenAI) -> None:
    """https://github.com/vllm-project/vllm/pull/36379: usage came though nobody had asked for it."""
    stream = client.chat.completions.create(model="tiny", messages=[USER], max_tokens=4, stream=True, stream_options={})
    assert all(chunk.usage is None and chunk.choices for chunk in stream)
