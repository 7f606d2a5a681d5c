"""More than the server can do: who waits is told, who cannot be served in time is told when to come back."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.server.conftest import limits

BODY = {"model": "tiny", "prompt": "Hi", "temperature": 0, "max_tokens": 30}
SLOW = limits(max_num_seqs=1) | {"step_time_s": 0.01}


def complete(served: Any, **options: Any) -> httpx.Response:
    return httpx.post(f"{served.url}/v1/completions", json=BODY | options, timeout=30)


def in_background(served: Any, **options: Any) -> threading.Thread:
    thread = threading.Thread(target=complete, args=(served,), kwargs=options)
    thread.start()
    return thread


def metric(served: Any, name: str) -> float:
    lines = httpx.get(f"{served.url}/metrics").text.splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"coldforge_{name} ")), 0.0)


@pytest.mark.parametrize(
    ("options", "asked"), [({"n": 7}, "1 prompts x n = 7"), ({"prompt": ["a"] * 4, "n": 2}, "4 prompts x n = 2")]
)
def test_what_can_never_fit_is_400_on_an_idle_server(run_server: Any, options: dict[str, Any], asked: str) -> None:
    with run_server(max_queue=4, runner_options=limits(max_num_seqs=2)) as served:
        answer = complete(served, **options)
        assert answer.status_code == 400
        assert f"at most 6 sequences here, got {asked}" in answer.json()["error"]["message"]
        assert len(complete(served, n=6, max_tokens=2).json()["choices"]) == 6


def test_the_queue_has_an_end_beyond_the_seats(run_server: Any, wait: Any) -> None:
    with run_server(max_queue=1, runner_options=SLOW) as served:
        threads = [in_background(served, max_tokens=100)]
        wait(lambda: served.engine.stats().num_running == 1)
        threads.append(in_background(served, max_tokens=1))
        wait(lambda: served.engine.stats().num_waiting == 1)
        for stream in (False, True):
            answer = complete(served, stream=stream)
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "queue_full"
            assert answer.json()["error"]["type"] == "rate_limit_error"
            assert int(answer.headers["retry-after"]) >= 1
        for thread in threads:
            thread.join()
        assert metric(served, 'rejected_requests_total{reason="queue_full"}') == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_wait_that_is_too_long_ends(run_server: Any, wait: Any, stream: bool) -> None:
    with run_server(max_wait_s=0.2, runner_options=SLOW) as served:
        running = in_background(served, max_tokens=120)
        wait(lambda: served.engine.stats().num_running == 1)
        begin_s = time.monotonic()
        answer = complete(served, stream=stream, n=2)
        assert 0.2 <= time.monotonic() - begin_s < 1.2
        if stream:
            assert answer.status_code == 200
            assert '"code": "queue_timeout"' in answer.text and answer.text.endswith("data: [DONE]\n\n")
            assert '"type": "service_unavailable_error"' in answer.text
        else:
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "queue_timeout"
            assert int(answer.headers["retry-after"]) >= 1
        assert running.is_alive(), "the one that runs goes on"
        running.join()
        assert metric(served, 'rejected_requests_total{reason="queue_timeout"}') == 1
        stats = served.engine.stats()
        assert stats.num_waiting == 0 and stats.num_free_blocks == stats.num_blocks


def test_who_has_begun_is_not_timed_out(run_server: Any) -> None:
    with run_server(max_wait_s=0.1, runner_options=SLOW) as served:
        assert complete(served, n=3).json()["usage"]["completion_tokens"] == 90


def test_a_stream_that_waits_says_that_it_lives(run_server: Any, wait: Any) -> None:
    with run_server(keep_alive_s=0.05, runner_options=SLOW) as served:
        running = in_background(served, max_tokens=60)
        wait(lambda: served.engine.stats().num_running == 1)
        with httpx.stream("POST", f"{served.url}/v1/completions", json=BODY | {"stream": True}, timeout=30) as answer:
            lines = [line for line in answer.iter_lines() if line]
        first_data = next(i for i, line in enumerate(lines) if line.startswith("data: "))
        assert first_data >= 3 and set(lines[:first_data]) == {": keep-alive"}
        assert lines[-1] == "data: [DONE]"
        running.join()
        # A client of OpenAI's does not see them, and the text is whole.
        running = in_background(served, max_tokens=60)
        wait(lambda: served.engine.stats().num_running == 1)
        chunks = served.client().completions.create(stream=True, **BODY)
        assert "".join(chunk.choices[0].text for chunk in chunks) == served.recited(len(served.encode("Hi")), 30)
        running.join()
        assert metric(served, "queue_wait_seconds_count") == 4
        assert metric(served, "queue_wait_seconds_sum") > 0.5


def test_a_client_that_leaves_the_queue_is_not_waited_for(run_server: Any, wait: Any) -> None:
    with run_server(keep_alive_s=0.05, runner_options=SLOW) as served:
        running = in_background(served, max_tokens=100)
        wait(lambda: served.engine.stats().num_running == 1)
        with httpx.stream("POST", f"{served.url}/v1/completions", json=BODY | {"stream": True}) as answer:
            next(answer.iter_lines())
            wait(lambda: served.engine.stats().num_waiting == 1)
        wait(lambda: served.engine.stats().num_waiting == 0, 2)
        running.join()


def test_twice_the_capacity(run_server: Any) -> None:
    """For seconds here. Nobody waits longer than was promised, and the server does as much as it can."""
    with run_server(max_queue=6, max_wait_s=1.0, runner_options=limits(max_num_seqs=2) | {"step_time_s": 0.01}) as served:
        until_s = time.monotonic() + 1.5
        answers: list[tuple[int, float, str]] = []

        def client(_: int) -> None:
            with httpx.Client(timeout=30) as http:
                while time.monotonic() < until_s:
                    begin_s = time.monotonic()
                    answer = http.post(f"{served.url}/v1/completions", json=BODY)
                    answers.append((answer.status_code, time.monotonic() - begin_s, answer.headers.get("retry-after", "")))
                    if answer.status_code == 429:
                        time.sleep(0.05)

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(client, range(12)))
        assert {status for status, _, _ in answers} == {200, 429}
        assert all(seconds < 4 for _, seconds, _ in answers)
        assert all(retry.isdecimal() for status, _, retry in answers if status == 429)
        num_served = sum(status == 200 for status, _, _ in answers)
        assert num_served >= 3


def test_a_retry_after_is_obeyed_by_openais_client(run_server: Any, wait: Any) -> None:
    with run_server(max_queue=0, runner_options=SLOW) as served:
        running = in_background(served, max_tokens=50)
        wait(lambda: served.engine.stats().num_running == 1)
        with pytest.raises(openai.RateLimitError):
            served.client().completions.create(**BODY)
        assert served.client(max_retries=3).completions.create(**BODY).choices[0].finish_reason == "length"
        running.join()
