"""Two replicas behind examples/nginx: streams are not held back, and a replica that drains or is full costs no request."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.conftest import limits, running
from tests.server.reciting_process import RecitingProcess, reciting

pytestmark = pytest.mark.slow
CONFIG = Path(__file__).parents[2] / "examples" / "nginx" / "coldforge.conf"
#: what the example is included in, as Debian's nginx.conf includes it
AROUND = """
daemon off;
pid nginx.pid;
error_log stderr error;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include {config};
}}
"""
STEP_S = 0.02
BODY = {"prompt": "The quick brown", "max_tokens": 100, "temperature": 0, "ignore_eos": True}


def nginx() -> str:
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        reason = "no nginx: apt-get install nginx-light"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def proxy(folder: Path, ports: list[int]) -> Iterator[str]:
    """nginx with the example's configuration over these ports; gives its URL. It must have complained of nothing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = CONFIG.read_text(encoding="utf-8")
    for shown, used in ((8000, port), (8001, ports[0]), (8002, ports[1])):
        assert text.count(f"127.0.0.1:{shown}") == 1
        text = text.replace(f"127.0.0.1:{shown}", f"127.0.0.1:{used}")
    (folder / "coldforge.conf").write_text(text)
    (folder / "nginx.conf").write_text(
        AROUND.format(config=folder / "coldforge.conf", user="user root;" if os.geteuid() == 0 else "")
    )
    with subprocess.Popen([nginx(), "-p", folder, "-c", "nginx.conf"], stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline_s = time.monotonic() + 10
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert process.poll() is None and time.monotonic() < deadline_s
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGQUIT)
            _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said


@pytest.fixture
def replicas() -> Iterator[list[RecitingProcess]]:
    with ExitStack() as stack:
        yield [stack.enter_context(reciting(step_time_s=STEP_S)) for _ in range(2)]


@pytest.fixture
def url(replicas: list[RecitingProcess], tmp_path: Path) -> Iterator[str]:
    with proxy(tmp_path, [int(replica.url.rpartition(":")[2]) for replica in replicas]) as url:
        yield url


def streamed(url: str, body: dict[str, object]) -> tuple[str, list[float]]:
    """The text of a stream that ends well, and the seconds from the request to each of its events."""
    begin_s, events, times_s = time.monotonic(), [], []
    with httpx.stream("POST", f"{url}/v1/completions", json={**body, "stream": True}, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        for line in filter(None, answer.iter_lines()):
            events.append(line.removeprefix("data: "))
            times_s.append(time.monotonic() - begin_s)
    assert events.pop() == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["text"] for event in events), times_s


def figure(replica: RecitingProcess, name: str) -> float:
    (value,) = re.findall(rf"^coldforge_{name} (\S+)", httpx.get(f"{replica.url}/metrics").text, re.MULTILINE)
    return float(value)


def test_a_stream_is_not_held_back(replicas: list[RecitingProcess], url: str) -> None:
    text, times_s = streamed(url, BODY)
    direct, _ = streamed(replicas[0].url, BODY)
    assert text == direct
    assert times_s[0] < 0.5 * times_s[-1] and times_s[-1] > 100 * STEP_S
    gaps_s = [after - before for before, after in pairwise(times_s)]
    assert statistics.median(gaps_s) > STEP_S / 2, "most events come alone"


def test_both_replicas_are_asked(replicas: list[RecitingProcess], url: str) -> None:
    before = [figure(replica, "generated_tokens_total") for replica in replicas]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: streamed(url, BODY), range(4)))
    assert all(figure(replica, "generated_tokens_total") > old for replica, old in zip(replicas, before, strict=True))


def test_a_replica_that_drains_costs_no_request(replicas: list[RecitingProcess], url: str) -> None:
    """One is told to stop while both stream; whatever is asked then, streamed or not, goes to the other."""
    expected, _ = streamed(replicas[0].url, BODY)
    texts: list[str] = []
    begun = threading.Barrier(9)
    drained = threading.Event()

    def keep_asking(client: int) -> None:
        with httpx.Client(timeout=60) as http:
            begun.wait()
            while True:
                last = drained.is_set()
                if client % 2:
                    texts.append(streamed(url, BODY)[0])
                else:
                    answer = http.post(f"{url}/v1/completions", json=BODY)
                    assert answer.status_code == 200, answer.text
                    texts.append(answer.json()["choices"][0]["text"])
                if last:
                    return

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(keep_asking, client) for client in range(8)]
        begun.wait()
        time.sleep(1)
        assert all(figure(replica, "num_requests_running") > 0 for replica in replicas)
        replicas[0].process.send_signal(signal.SIGTERM)
        assert replicas[0].process.wait(30) == 0
        time.sleep(1)
        drained.set()
        for client in clients:
            client.result(60)
    assert len(texts) >= 16
    assert set(texts) == {expected}


def test_a_replica_that_is_full_hands_on(tmp_path: Path) -> None:
    one_at_a_time: Any = {"runner_options": limits(max_num_seqs=1) | {"step_time_s": STEP_S}, "max_queue": 0}
    with running(**one_at_a_time) as full, running() as free:
        ports = [int(served.url.rpartition(":")[2]) for served in (full, free)]
        with (
            proxy(tmp_path, ports) as url,
            full.client().completions.create(model="tiny", stream=True, prompt="a", max_tokens=400, temperature=0) as held,
        ):
            next(iter(held))
            assert httpx.post(f"{full.url}/v1/completions", json=BODY).status_code == 429
            for _ in range(6):
                assert httpx.post(f"{url}/v1/completions", json=BODY).status_code == 200
