"""/v1/chat/completions through the official client."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

USER = [{"role": "user", "content": "Say the thing."}]
PROMPT = "<|user|>Say the thing.<|end|><|assistant|>"


def ask(served: Any, **options: Any) -> Any:
    return served.client().chat.completions.create(
        **{"model": "tiny", "messages": USER, "temperature": 0, "max_tokens": 40} | options
    )


def test_answer_usage_and_shape(served: Any) -> None:
    num_prompt = len(served.encode(PROMPT))
    answer = ask(served)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == served.recited(num_prompt, 40)
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs is None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (num_prompt, 40)
    assert answer.usage.total_tokens == num_prompt + 40
    assert ask(served).usage.prompt_tokens_details.cached_tokens >= 16


def test_stream_is_the_answer_in_whole_characters(served: Any) -> None:
    chunks = list(ask(served, stream=True, max_tokens=120))
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == ask(served, max_tokens=120).choices[0].message.content
    assert "😀" in text and "你" in text
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    assert all(c.choices[0].delta.role is None for c in chunks[1:])
    assert all("\ufffd" not in (c.choices[0].delta.content or "") for c in chunks[:-1])
    assert all(c.choices[0].delta.content for c in chunks[1:-1]), "a chunk without text"
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert all(c.usage is None for c in chunks)


def test_stream_usage(served: Any) -> None:
    last = list(ask(served, stream=True, stream_options={"include_usage": True}))[-1]
    assert last.choices == []
    assert last.usage.completion_tokens == 40
    options = {"include_usage": True, "continuous_usage_stats": True}
    counts = [c.usage.completion_tokens for c in ask(served, stream=True, stream_options=options)]
    assert counts == sorted(counts) and counts[0] < 5 and counts[-1] == 40


def test_n_choices_with_one_seed_differ_and_repeat(served: Any) -> None:
    sampled = {"n": 3, "seed": 7, "temperature": 5.0, "max_tokens": 20}
    first, again = (
        [c.message.content for c in sorted(ask(served, **sampled).choices, key=lambda c: c.index)] for _ in range(2)
    )
    assert first == again
    assert len(set(first)) == 3
    assert ask(served, **sampled).usage.completion_tokens == 60
    streamed = ["", "", ""]
    finishes = []
    for chunk in ask(served, stream=True, **sampled):
        choice = chunk.choices[0]
        streamed[choice.index] += choice.delta.content or ""
        finishes += [choice.index] if choice.finish_reason else []
    assert streamed == first
    assert sorted(finishes) == [0, 1, 2]


def test_unseeded_requests_differ(served: Any) -> None:
    assert len({ask(served, temperature=5.0).choices[0].message.content for _ in range(3)}) == 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("include", [False, True])
def test_stop_string_across_tokens(served: Any, stream: bool, include: bool) -> None:
    whole = served.recited(len(served.encode(PROMPT)), 150)
    end = whole.index("over the")
    answer = ask(
        served,
        max_tokens=150,
        stop=["over the", "never said"],
        stream=stream,
        extra_body={"include_stop_str_in_output": include},
    )
    if stream:
        chunks = list(answer)
        text, reason = "".join(c.choices[0].delta.content or "" for c in chunks), chunks[-1].choices[0].finish_reason
    else:
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert text == whole[: end + (len("over the") if include else 0)]
    assert reason == "stop"


def test_min_tokens_holds_stop_strings_off(served: Any) -> None:
    text = ask(served, max_tokens=30, stop="o", extra_body={"min_tokens": 30}).choices[0].message.content
    assert text == served.recited(len(served.encode(PROMPT)), 30)


def test_end_of_sequence_and_stop_token_ids(run_server: Any) -> None:
    with run_server() as served:
        num_prompt = len(served.encode(PROMPT))
        served.runner.eos_at[num_prompt + 5] = served.tokenizer.token_to_id("</s>")
        ended = ask(served, extra_body={"skip_special_tokens": False})
        assert ended.choices[0].finish_reason == "stop"
        assert ended.choices[0].message.content == served.recited(num_prompt, 5)
        assert ended.usage.completion_tokens == 6
        ignoring = ask(served, extra_body={"ignore_eos": True, "skip_special_tokens": False}).choices[0]
        assert ignoring.finish_reason == "length"
        assert ignoring.message.content.startswith(served.recited(num_prompt, 5) + "</s>")
        stop_id = served.runner.recital[(num_prompt + 3) % len(served.runner.recital)]
        stopped = ask(served, extra_body={"stop_token_ids": [stop_id]}).choices[0]
        assert (stopped.finish_reason, stopped.message.content) == ("stop", served.recited(num_prompt, 3))


@pytest.mark.parametrize("skip_special_tokens", [True, False])
@pytest.mark.parametrize("stream", [False, True])
def test_a_special_token_as_a_stop_string(run_server: Any, stream: bool, skip_special_tokens: bool) -> None:
    """It shows in no text by default, and ends it all the same (https://github.com/vllm-project/vllm/issues/2123)."""
    with run_server() as served:
        num_prompt = len(served.encode(PROMPT))
        served.runner.eos_at[num_prompt + 5] = served.tokenizer.token_to_id("<|end|>")
        options = {"extra_body": {"skip_special_tokens": skip_special_tokens}, "max_tokens": 20, "stream": stream}
        answer = ask(served, stop=["never said", "<|end|>"], **options)
        if stream:
            chunks = list(answer)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            reason = chunks[-1].choices[0].finish_reason
        else:
            text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert (text, reason) == (served.recited(num_prompt, 5), "stop")
        if not stream:
            assert ask(served, **options).choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(served: Any, stream: bool) -> None:
    answer = ask(served, max_tokens=60, logprobs=True, top_logprobs=2, stream=stream)
    if stream:
        content = [t for c in answer if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    else:
        content = answer.choices[0].logprobs.content
    assert len(content) == 60
    spelled = b"".join(bytes(t.bytes) for t in content)
    assert spelled.decode(errors="replace") == served.recited(len(served.encode(PROMPT)), 60)
    for token in content:
        assert len(token.top_logprobs) == 2
        assert token.top_logprobs[0].logprob == token.logprob <= 0  # greedy
        assert token.top_logprobs[0].token == token.token


def test_logit_bias_and_penalties_reach_the_sampler(served: Any) -> None:
    token = served.tokenizer.token_to_id("Z")
    assert ask(served, max_tokens=4, logit_bias={str(token): 100}).choices[0].message.content == "ZZZZ"
    penalized = ask(served, max_tokens=4, logit_bias={str(token): 7}, frequency_penalty=2.0, temperature=0)
    assert penalized.choices[0].message.content != "ZZZZ"


def test_content_parts_and_system_message(served: Any) -> None:
    parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": "it."}]
    answer = ask(served, messages=[{"role": "system", "content": "S"}, {"role": "user", "content": parts}])
    assert answer.usage.prompt_tokens == len(served.encode("<|system|>S<|end|><|user|>Say\nit.<|end|><|assistant|>"))


def test_continue_final_message(served: Any) -> None:
    messages = [*USER, {"role": "assistant", "content": "The qui"}]
    answer = ask(served, messages=messages, extra_body={"continue_final_message": True})
    assert answer.usage.prompt_tokens == len(served.encode(PROMPT + "The qui"))


def test_concurrent_streams_do_not_mix(served: Any) -> None:
    contents = [f"{'x' * i} 你好 {i}" for i in range(12)]

    async def one(client: openai.AsyncOpenAI, content: str) -> str:
        stream = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": content}], temperature=0, max_tokens=50, stream=True
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    async def all_of_them() -> list[str]:
        async with served.async_client() as client:
            return await asyncio.gather(*(one(client, content) for content in contents))

    for content, text in zip(contents, asyncio.run(all_of_them()), strict=True):
        assert text == served.recited(len(served.encode(f"<|user|>{content}<|end|><|assistant|>")), 50)


def test_model_defaults_come_before_openais(run_server: Any) -> None:
    with run_server(generation_config={"temperature": 0.0, "max_new_tokens": 7, "transformers_version": "5"}) as served:
        answer = served.client().chat.completions.create(model="tiny", messages=USER)
        assert answer.usage.completion_tokens == 7
        assert answer.choices[0].message.content == served.recited(len(served.encode(PROMPT)), 7)
        assert ask(served, max_tokens=9).usage.completion_tokens == 9


def test_answer_fills_the_context_by_default(served: Any) -> None:
    answer = served.client().chat.completions.create(model="tiny", messages=USER, temperature=0)
    assert answer.usage.total_tokens == 512
    assert answer.choices[0].finish_reason == "length"
