"""One request cannot end another one, whatever it asks for."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import openai
import pytest

LONG = {"model": "tiny", "prompt": "Hi", "temperature": 0, "max_tokens": 60}


@pytest.mark.parametrize("temperature", [0, 1])
def test_stop_ids_that_leave_no_token_are_400_and_nobody_else_notices(run_server: Any, temperature: float) -> None:
    with run_server(runner_options={"step_time_s": 0.005}) as served:
        stream = iter(served.client().completions.create(stream=True, **LONG))
        first = next(stream).choices[0].text
        body = {"min_tokens": 1, "stop_token_ids": list(range(served.runner.vocab_size)), "temperature": temperature}
        answer = httpx.post(f"{served.url}/v1/completions", json={"prompt": "Hi", **body})
        assert answer.status_code == 400
        assert "min_tokens" in answer.json()["error"]["message"]
        assert first + "".join(chunk.choices[0].text for chunk in stream) == served.recited(len(served.encode("Hi")), 60)


def test_a_request_whose_logits_are_no_numbers_ends_alone(run_server: Any, wait: Any) -> None:
    """As a model may give them after a certain text: here after a prompt of 7 tokens."""
    with run_server(runner_options={"step_time_s": 0.005}) as served:
        reciting = served.runner.run

        def run(batch: Any) -> Any:
            logits = reciting(batch)
            logits[np.asarray(batch.positions)[batch.logit_rows] == 6] = np.nan
            return logits

        stream = iter(served.client().completions.create(stream=True, **LONG | {"prompt": "a long prompt that is past it"}))
        first = next(stream).choices[0].text
        served.runner.run = run
        for options in ({}, {"stream": True}, {"n": 3}):
            with pytest.raises(openai.APIError, match="no token can be chosen"):
                list(served.client().completions.create(**LONG | {"prompt": "abcdef", "temperature": 1} | options))
        num_prompt = len(served.encode("a long prompt that is past it"))
        assert first + "".join(chunk.choices[0].text for chunk in stream) == served.recited(num_prompt, 60)
        wait(lambda: served.engine.stats().num_running == 0)
        stats = served.engine.stats()
        assert stats.num_free_blocks == stats.num_blocks
        counted = 'coldforge_requests_total{finish_reason="error"} 5.0'  # after the answer, when the stream is closed
        wait(lambda: counted in httpx.get(f"{served.url}/metrics").text)


def test_a_text_that_cannot_be_decoded_ends_one_request(run_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with run_server(runner_options={"step_time_s": 0.005}) as served:
        vocabulary = served.server.service.vocabulary
        decode = vocabulary.decode

        def fail(token_ids: Any) -> str:
            if token_ids[:1] == served.encode("z")[-1:]:
                raise RuntimeError("no text")
            return str(decode(token_ids))

        stream = iter(served.client().completions.create(stream=True, **LONG))
        next(stream)
        monkeypatch.setattr(vocabulary, "decode", fail)
        answer = httpx.post(f"{served.url}/v1/completions", json={"prompt": [served.encode("z")[-1]], "max_tokens": 4})
        assert answer.status_code == 500
        assert list(stream)[-1].choices[0].finish_reason == "length"


class Panic(BaseException):
    """As a library in another language may raise: no Exception."""


def test_a_fault_beside_the_steps_fails_what_is_open_and_is_seen(run_server: Any, wait: Any) -> None:
    """Nobody waits for a thread that is gone; /health says that the server must be started again."""
    with run_server(runner_options={"step_time_s": 0.005}) as served:
        stream = iter(served.client().completions.create(stream=True, **LONG))
        next(stream)

        def panic() -> Any:
            raise Panic("out of order")

        served.engine.stats = panic
        with pytest.raises(openai.APIError, match="the engine failed: Panic: out of order"):
            list(stream)
        wait(lambda: httpx.get(f"{served.url}/health").status_code == 503)
        answer = httpx.post(f"{served.url}/v1/completions", json={"prompt": "Hi"}, timeout=5)
        assert answer.status_code == 503 and "restart the server" in answer.json()["error"]["message"]
