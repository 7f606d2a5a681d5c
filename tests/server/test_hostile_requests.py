"""Malformed bodies, ids, schemas, grammars, tools and templates at every route: 4xx, soon, and nobody else notices."""

from __future__ import annotations

import re
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.server.conftest import limits
from tests.server.hostile import COMPLETIONS, KINDS, TEMPLATE, VALID, Hostile, hostile
from tests.server.reciting_process import process_of
from tests.server.watching import watching_health

NUM_REQUESTS = 5000
MAX_ANSWER_S = 10.0
MAX_HEALTH_S = 0.2
HUGE = b'{"prompt": "' + b"word " * 5_400_000 + b'"}'
JSON = {"content-type": "application/json"}
#: How pydantic and the standard library's parser speak.
RAW = re.compile(r"Input should|Field required|JSON decode error|Value error|validation error|Traceback|Extra inputs|\[type=")


@pytest.fixture(scope="module")
def strict(run_server: Any) -> Iterator[Any]:
    with run_server(template=TEMPLATE, runner_options=limits(max_model_len=256)) as served:
        yield served


def check(request: Hostile, answer: httpx.Response) -> None:
    shown = (request.kind, request.path, request.content[:300], answer.status_code, answer.text[:300])
    assert 400 <= answer.status_code < 500, shown
    error = answer.json()["error"]
    assert len(error["message"]) < 3000 and "\n" not in error["message"] and not RAW.search(error["message"]), shown


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_is_refused(strict: Any, kind: str) -> None:
    with httpx.Client(timeout=MAX_ANSWER_S) as client:
        for request in hostile(25 * len(KINDS), seed=1):
            if request.kind == kind:
                check(request, client.post(strict.url + request.path, content=request.content, headers=JSON))


@pytest.mark.parametrize("path", VALID)
def test_what_hostile_requests_are_made_of_is_valid(strict: Any, path: str) -> None:
    assert httpx.post(strict.url + path, json=VALID[path], timeout=MAX_ANSWER_S).status_code == 200


@pytest.mark.slow
@pytest.mark.alone
def test_five_thousand_are_refused_and_nobody_notices() -> None:
    """Eight clients send them; another sends a prompt of 27 MB again and again; a third process asks /health."""
    seconds: list[float] = []
    ended = threading.Event()
    requests = list(hostile(NUM_REQUESTS, seed=0))
    with process_of("tests.server.hostile_process") as server, httpx.Client(timeout=MAX_ANSWER_S) as client:

        def send(request: Hostile) -> None:
            begin_s = time.monotonic()
            answer = client.post(server.url + request.path, content=request.content, headers=JSON)
            seconds.append(time.monotonic() - begin_s)
            check(request, answer)

        def send_huge() -> int:
            sent = 0
            while not ended.is_set():
                assert httpx.post(server.url + COMPLETIONS, content=HUGE, headers=JSON, timeout=30).status_code == 413
                sent += 1
                ended.wait(1)
            return sent

        with ThreadPoolExecutor(9) as pool, watching_health(server.url) as health_s:
            huge = pool.submit(send_huge)
            try:
                list(pool.map(send, requests))
            finally:
                ended.set()
            assert huge.result(60) >= 2
        answer = client.post(server.url + COMPLETIONS, json=VALID[COMPLETIONS])
        assert answer.status_code == 200, "the engine goes on"
        metrics = client.get(f"{server.url}/metrics").text
    print(
        f"{Counter(r.kind for r in requests)}; slowest {max(seconds):.2f} s; {len(health_s)} /health: "
        f"median {statistics.median(health_s):.4f} s, slowest {max(health_s):.3f} s"
    )
    assert len(seconds) == NUM_REQUESTS and max(seconds) < MAX_ANSWER_S
    assert max(health_s) < MAX_HEALTH_S
    assert re.search(r"^coldforge_kv_blocks_usage_ratio 0\.0$", metrics, re.MULTILINE)
