"""While one request asks for much, everybody else is served as ever."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.reciting_process import reciting


@contextmanager
def probing(url: str) -> Iterator[list[float]]:
    """Seconds that /health took, asked all the while."""
    seconds: list[float] = []
    stop = threading.Event()

    def probe() -> None:
        with httpx.Client(timeout=30) as client:
            client.get(f"{url}/health")
            while not stop.is_set():
                begin_s = time.perf_counter()
                assert client.get(f"{url}/health").status_code == 200
                seconds.append(time.perf_counter() - begin_s)
                stop.wait(0.005)

    thread = threading.Thread(target=probe)
    thread.start()
    time.sleep(0.1)
    try:
        yield seconds
    finally:
        time.sleep(0.05)
        stop.set()
        thread.join()


WORDS = "word " * 200_000
HEAVY: dict[str, tuple[str, bytes, int]] = {
    "3,000,000 words": ("completions", json.dumps({"prompt": "word " * 3_000_000}).encode(), 413),
    "30 MB": ("completions", b'{"prompt": "' + b"a" * 30_000_000 + b'"}', 413),
    "100,000 stop strings": ("completions", json.dumps({"prompt": "a", "stop": ["ab"] * 100_000}).encode(), 400),
    "300,000 messages": (
        "chat/completions",
        json.dumps({"messages": [{"role": "user", "content": "a"}] * 300_000}).encode(),
        413,
    ),
    "6,000 messages, to be cut": (
        "chat/completions",
        json.dumps(
            {"messages": [{"role": "user", "content": "a"}] * 6_000, "truncate_prompt_tokens": 9, "max_tokens": 2}
        ).encode(),
        200,
    ),
    "1 MB, to be cut": (
        "completions",
        json.dumps({"prompt": WORDS, "truncate_prompt_tokens": 9, "max_tokens": 2}).encode(),
        200,
    ),
    "250,000 ids": ("completions", b'{"prompt":[' + b"1," * 250_000 + b"1]}", 400),
    "30,000 lists": ("completions", b'{"prompt":[' + b"[]," * 30_000 + b"[]]}", 400),
}


def post(url: str, kind: str) -> int:
    path, content, _ = HEAVY[kind]
    headers = {"content-type": "application/json"}
    return httpx.post(f"{url}/v1/{path}", content=content, headers=headers, timeout=60).status_code


@pytest.mark.parametrize("kind", HEAVY)
def test_nobody_else_waits_for_a_heavy_request(served: Any, kind: str) -> None:
    """Median and not maximum: server, clients and tests share a process here. The slow test has the server apart."""
    with probing(served.url) as seconds:
        assert post(served.url, kind) == HEAVY[kind][2]
    assert statistics.median(seconds) < 0.2
    assert sorted(seconds)[-3:][0] < 0.5


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_fifty_heavy_requests_at_once_starve_nobody_and_leave_no_memory() -> None:
    def resident_mb() -> float:
        return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

    with reciting() as server:
        for kind in HEAVY:
            assert post(server.url, kind) == HEAVY[kind][2]
        before = resident_mb()
        with probing(server.url) as seconds:
            threads = [threading.Thread(target=post, args=(server.url, kind)) for kind in (list(HEAVY) * 7)[:50]]
            for thread in threads:
                thread.start()
            answered = []
            while any(thread.is_alive() for thread in threads):
                begin_s = time.perf_counter()
                body = {"prompt": "a", "max_tokens": 4}
                assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=30).status_code == 200
                answered.append(time.perf_counter() - begin_s)
        assert statistics.median(answered) < 1
        assert statistics.median(seconds) < 0.2
        assert resident_mb() < before + 60
