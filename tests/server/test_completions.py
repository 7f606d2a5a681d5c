"""/v1/completions, /tokenize, /detokenize, /v1/models, /version."""

from __future__ import annotations

from typing import Any

import httpx
import pytest


def complete(served: Any, **options: Any) -> Any:
    return served.client().completions.create(
        **{"model": "tiny", "prompt": "Once upon", "temperature": 0, "max_tokens": 20} | options
    )


def test_text_and_default_length(served: Any) -> None:
    answer = served.client().completions.create(model="tiny", prompt="Once upon", temperature=0)
    num_prompt = len(served.encode("Once upon"))
    assert answer.object == "text_completion"
    assert answer.choices[0].text == served.recited(num_prompt, 16)
    assert answer.usage.prompt_tokens == num_prompt
    assert answer.usage.completion_tokens == 16


@pytest.mark.parametrize("stream", [False, True])
def test_every_form_of_prompt(served: Any, stream: bool) -> None:
    one, two = served.encode("Once upon"), served.encode("a time")
    forms: list[tuple[Any, list[list[int]]]] = [
        ("Once upon", [one]),
        (["Once upon", "a time"], [one, two]),
        (one, [one]),
        ([one, two], [one, two]),
    ]
    for prompt, ids in forms:
        answer = complete(served, prompt=prompt, n=2, stream=stream)
        texts = [""] * (2 * len(ids))
        for part in answer if stream else [answer]:
            for choice in part.choices:
                texts[choice.index] += choice.text
        assert texts == [served.recited(len(i), 20) for i in ids for _ in range(2)]
        if not stream:
            assert answer.usage.prompt_tokens == sum(map(len, ids))


def test_echo_scores_the_prompt(served: Any) -> None:
    ids = served.encode("Once 你")
    answer = complete(served, prompt="Once 你", echo=True, max_tokens=0, logprobs=1)
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason, answer.usage.completion_tokens) == ("Once 你", "length", 0)
    assert len(choice.logprobs.tokens) == len(ids) == len(choice.logprobs.top_logprobs)
    assert choice.logprobs.token_logprobs[0] is None and choice.logprobs.top_logprobs[0] is None
    assert all(p < 0 for p in choice.logprobs.token_logprobs[1:])
    assert all(1 <= len(top) <= 2 for top in choice.logprobs.top_logprobs[1:])


def test_echo_precedes_the_text(served: Any) -> None:
    answer = complete(served, echo=True, logprobs=0, max_tokens=3)
    expected = "Once upon" + served.recited(len(served.encode("Once upon")), 3)
    assert answer.choices[0].text == expected
    assert len(answer.choices[0].logprobs.tokens) == len(served.encode("Once upon")) + 3
    streamed = complete(served, echo=True, max_tokens=3, stream=True)
    assert "".join(c.choices[0].text for c in streamed) == expected


def test_logprobs_say_where_each_token_begins(served: Any) -> None:
    prompt = next("x" * i for i in range(9) if served.recited(1 + i, 1) == " ")  # begins at a whole character
    choice = complete(served, prompt=prompt, logprobs=3, max_tokens=40).choices[0]
    assert "😀" in choice.text or "你" in choice.text
    offsets, tokens = choice.logprobs.text_offset, choice.logprobs.tokens
    assert len(offsets) == 40
    for offset, token in zip(offsets, tokens, strict=True):
        assert "\ufffd" in token or choice.text[offset : offset + len(token)] == token
    assert all(p <= 0 for p in choice.logprobs.token_logprobs)
    # Parts of characters have one text, U+FFFD, so there may be fewer names than tokens.
    assert all(1 <= len(top) <= 4 for top in choice.logprobs.top_logprobs)
    likeliest = [max(top.values()) for top in choice.logprobs.top_logprobs]
    assert likeliest == choice.logprobs.token_logprobs  # greedy


def test_truncation_keeps_the_end(served: Any) -> None:
    answer = complete(served, prompt="Once upon a time", echo=True, extra_body={"truncate_prompt_tokens": 4})
    assert answer.usage.prompt_tokens == 4
    assert answer.choices[0].text.startswith("time")
    long = complete(served, prompt="x" * 2000, max_tokens=0, extra_body={"truncate_prompt_tokens": -1})
    assert long.usage.prompt_tokens == 512


def test_beginning_of_sequence_is_added_once(served: Any) -> None:
    plain = complete(served, prompt="Hi").usage.prompt_tokens
    assert complete(served, prompt="<s>Hi").usage.prompt_tokens == plain
    bare = complete(served, prompt="Hi", extra_body={"add_special_tokens": False})
    assert bare.usage.prompt_tokens == plain - 1


def test_tokenize_and_back(served: Any) -> None:
    text = "The quick 你好 <|user|>"
    tokens = httpx.post(f"{served.url}/tokenize", json={"prompt": text}).json()
    assert tokens == {"tokens": served.encode(text), "count": len(served.encode(text)), "max_model_len": 512}
    back = httpx.post(f"{served.url}/detokenize", json={"tokens": tokens["tokens"]}).json()
    assert back == {"prompt": "<s>" + text}
    chat = httpx.post(f"{served.url}/tokenize", json={"messages": [{"role": "user", "content": "Hi"}]}).json()
    assert chat["tokens"] == served.encode("<|user|>Hi<|end|><|assistant|>"), "the template brings the one <s>"


def test_models_and_version(served: Any) -> None:
    (model,) = served.client().models.list().data
    assert (model.id, model.owned_by, model.max_model_len) == ("tiny", "coldforge", 512)
    assert model.root == "tiny", "vllm bench serve without --model reads id and root"
    assert served.client().models.retrieve("tiny").id == "tiny"
    assert httpx.get(f"{served.url}/version").json() == {"version": "1.2.3"}


def test_prompts_of_ids_are_scored_as_evaluation_harnesses_ask(served: Any) -> None:
    """Several prompts of ids, echo, one token more, logprobs of all: the continuation's scores lie at [context:-1]."""
    prompts = [served.encode("The quick brown"), served.encode("The quick 你好 brown fox")]
    answer = complete(served, prompt=prompts, echo=True, max_tokens=1, logprobs=1, seed=1234)
    for ids, choice in zip(prompts, sorted(answer.choices, key=lambda choice: choice.index), strict=True):
        alone = complete(served, prompt=ids, echo=True, max_tokens=0, logprobs=1).choices[0]
        scores, tops = choice.logprobs.token_logprobs, choice.logprobs.top_logprobs
        assert len(scores) == len(tops) == len(ids) + 1
        assert scores[:-1] == alone.logprobs.token_logprobs
        for position in range(2, len(ids)):
            best = max(tops[position].values())
            assert scores[position] <= best
            assert (scores[position] == best) == (served.runner.recital[position % len(served.runner.recital)] == ids[position])
