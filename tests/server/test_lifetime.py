"""Loading, clients that leave, failures of the engine, draining, metrics."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from runtime.server import serve

USER = [{"role": "user", "content": "Hi"}]
LONG = {"model": "tiny", "messages": USER, "temperature": 0, "max_tokens": 400}
SLOW = {"step_time_s": 0.01}


def is_free(served: Any) -> bool:
    stats = served.engine.stats()
    return bool(stats.num_running == 0 == stats.num_waiting and stats.num_free_blocks == stats.num_blocks)


def test_503_while_loading_then_200(run_server: Any, wait: Any) -> None:
    may_load = threading.Event()
    with run_server(before_load=lambda: may_load.wait(10), wait_until_loaded=False) as served:
        assert httpx.get(f"{served.url}/health").status_code == 503
        with pytest.raises(openai.InternalServerError) as caught:
            served.client().models.list()
        assert caught.value.status_code == 503
        may_load.set()
        wait(lambda: httpx.get(f"{served.url}/health").status_code == 200)
        assert served.client().chat.completions.create(**LONG | {"max_tokens": 3}).choices


def test_a_load_that_fails_ends_the_server() -> None:
    def fail() -> FastAPI:
        raise ValueError("no such bundle")

    with pytest.raises(ValueError, match="no such bundle"):
        serve(fail, "127.0.0.1", 0)


def test_a_client_that_leaves_a_stream_frees_its_blocks(run_server: Any, wait: Any) -> None:
    with run_server(runner_options=SLOW) as served:
        with served.client().chat.completions.create(stream=True, n=2, **LONG) as stream:
            next(iter(stream))
            assert served.engine.stats().num_running == 2
        wait(lambda: is_free(served), 2)
        counted = 'coldforge_requests_total{finish_reason="abort"} 2.0'
        wait(lambda: counted in httpx.get(f"{served.url}/metrics").text, 2)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_any_answer(run_server: Any, wait: Any, stream: bool) -> None:
    with run_server(runner_options=SLOW) as served:

        async def leave() -> None:
            async with served.async_client() as client:
                asking = asyncio.create_task(client.chat.completions.create(stream=stream, **LONG))
                await asyncio.sleep(0.15)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

        asyncio.run(leave())
        wait(lambda: is_free(served), 2)
        assert served.engine.stats().num_generated_tokens < 200


def test_a_stop_string_frees_blocks_at_once(run_server: Any, wait: Any) -> None:
    with run_server(runner_options=SLOW) as served:
        served.client().chat.completions.create(stop="e", **LONG)
        wait(lambda: is_free(served), 1)
        assert served.engine.stats().num_generated_tokens < 60


def test_an_engine_failure_reaches_every_open_request(run_server: Any, wait: Any) -> None:
    with run_server(runner_options=SLOW) as served:
        errors: list[openai.APIStatusError] = []

        def ask() -> None:
            try:
                served.client().chat.completions.create(**LONG)
            except openai.APIStatusError as error:
                errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        stream = served.client().chat.completions.create(stream=True, **LONG)
        next(iter(stream))
        wait(lambda: served.engine.stats().num_running == 4)
        served.runner.failure = RuntimeError("boom")
        with pytest.raises(openai.APIError, match="boom"):
            list(stream)
        for thread in threads:
            thread.join(5)
        assert [error.status_code for error in errors] == [500] * 3
        assert "boom" in errors[0].response.json()["error"]["message"]
        served.runner.failure = None
        assert is_free(served)
        assert served.client().chat.completions.create(**LONG | {"max_tokens": 3}).choices, "the server goes on"


def test_an_engine_that_cannot_be_cleaned_up_takes_no_more(run_server: Any, wait: Any) -> None:
    with run_server() as served:
        served.runner.failure = RuntimeError("boom")
        served.engine.abort = lambda _: 1 / 0
        for status in (500, 503):
            with pytest.raises(openai.InternalServerError) as caught:
                served.client().chat.completions.create(**LONG)
            assert caught.value.status_code == status
        assert httpx.get(f"{served.url}/health").status_code == 503


def test_sigterm_drains(run_server: Any, wait: Any) -> None:
    with run_server(runner_options={"step_time_s": 0.003}) as served:
        stream = iter(served.client().chat.completions.create(stream=True, **LONG | {"max_tokens": 200}))
        next(stream)
        # An open connection: once the last request has ended no new one is accepted.
        served.server.handle_exit(signal.SIGTERM, None)
        with pytest.raises(openai.InternalServerError) as caught:
            served.client().chat.completions.create(**LONG)
        assert caught.value.status_code == 503
        assert httpx.get(f"{served.url}/health").status_code == 503
        assert list(stream)[-1].choices[0].finish_reason == "length", "the open stream ends as if nothing had happened"
        wait(lambda: served.server.should_exit, 2)


def test_drain_gives_up_at_its_timeout(run_server: Any, wait: Any) -> None:
    with run_server(runner_options={"step_time_s": 0.1}, drain_timeout_s=0.1) as served:
        stream = iter(served.client().chat.completions.create(stream=True, **LONG))
        next(stream)
        started = time.monotonic()
        served.server.handle_exit(signal.SIGTERM, None)
        with pytest.raises((openai.APIError, httpx.HTTPError)):
            list(stream)
        assert time.monotonic() - started < 8


def test_metrics_count_what_happened(run_server: Any) -> None:
    with run_server() as served:
        prompt = "a b c d e f g h i j k l m n"
        for _ in range(2):
            served.client().completions.create(model="tiny", prompt=prompt, max_tokens=10)
        httpx.get(f"{served.url}/nowhere/{time.time()}")
        text = httpx.get(f"{served.url}/metrics").text
        samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        num_prompt = len(served.encode(prompt))
        for name, value in {
            'requests_total{finish_reason="length"}': 2,
            "prompt_tokens_total": 2 * num_prompt,
            "cached_prompt_tokens_total": num_prompt // 16 * 16,
            "generated_tokens_total": 20,
            "time_to_first_token_seconds_count": 2,
            "inter_token_latency_seconds_count": 18,
            "e2e_request_latency_seconds_count": 2,
            "num_requests_running": 0,
            "num_requests_waiting": 0,
            "kv_blocks_usage_ratio": 0,
            "preemptions_total": 0,
            'http_responses_total{route="/v1/completions",status="200"}': 2,
            'http_responses_total{route="other",status="404"}': 1,
        }.items():
            assert float(samples[f"coldforge_{name}"]) == value, name
