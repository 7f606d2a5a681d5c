"""Twice what a server can do, for minutes: clients that leave, read slowly, ask for too much, use tools and schemas.

    python -m benchmarks.soak BUNDLE --minutes 30 --out FILE

It starts `serve BUNDLE`, measures how many requests a second three clients for each seat get, and then sends twice as
many, at random times, under two keys of which one sends three times as much as the other. It fails unless at the end the
process lives, every request has ended as its kind may end, all KV blocks are free, and the resident memory of the last tenth of
the run is within 2 % of that after the first fifth. Python keeps the memory of the most requests that were ever open, so before
the load as many come at once as this process will ever have open. A peak that is higher all the same lifts memory once, and a
leak every time: where it has drifted, the load is sent again, up to three times. Before that, 200 streams at once: the longest
wait for a next token, as a multiple of the stream's mean, and how equal their rates are (Jain's index: 1 if all are equal).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import fmean, median
from typing import Any

import httpx

from benchmarks.soak_clients import KINDS, Record, Soaker, token_gaps

KEYS = {"heavy": ("key-of-the-heavy", 3), "light": ("key-of-the-light", 1)}
MAX_DRIFT = 0.02
MAX_GAP = 5.0
_SAMPLE_EVERY_S = 2.0
_LATE_S = 2.0
_MAX_OPEN = 600
_MAX_PERIODS = 4


@dataclass(frozen=True)
class Served:
    """A process and its address."""

    process: subprocess.Popen[bytes]
    url: str

    def rss_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        samples = [line for line in lines if re.match(rf"{re.escape(name)}(\{{| )", line)]
        assert samples, f"/metrics has no {name}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in samples)


@contextmanager
def serving(bundle: Path, *options: str) -> Iterator[Served]:
    """`serve bundle`, ready."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        keys = Path(folder) / "keys"
        keys.write_text("".join(f"{name}:{sha256(key.encode()).hexdigest()}\n" for name, (key, _) in KEYS.items()))
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [Path(sys.executable).with_name("serve"), bundle, "--port", str(port), "--api-keys", keys, *options]
        process = subprocess.Popen(command)
        try:
            served = Served(process, f"http://127.0.0.1:{port}")
            for _ in range(600):
                assert process.poll() is None, "the server does not come up"
                try:
                    if httpx.get(f"{served.url}/health").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
            yield served
        finally:
            process.kill()
            process.wait()


def jain(shares: list[float]) -> float:
    """1 if all are equal, 1 / n if one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


async def soak(served: Served, minutes: float, num_streams: int) -> dict[str, Any]:
    """What was seen; `faults` is empty if all of it may be."""
    record, rng = Record(), random.Random(0)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=2)  # less than the server's
    async with httpx.AsyncClient(base_url=served.url, timeout=300, limits=limits) as http:
        models = await http.get("/v1/models", headers={"Authorization": f"Bearer {KEYS['light'][0]}"})
        soaker = Soaker(http, record, rng, models.json()["data"][0]["max_model_len"])
        streams = await _streams(http, num_streams, record) if num_streams else {}
        capacity_rps = await _capacity(soaker, 3 * int(served.metric("coldforge_max_num_seqs")))
        await _fill(soaker)
        measured, soaker_record = dict(record.outcomes), Record()
        soaker = Soaker(http, soaker_record, rng, soaker.max_model_len)
        periods: list[list[int]] = []
        while not periods or (len(periods) < _MAX_PERIODS and abs(_drift(periods[-1])) > MAX_DRIFT):
            periods.append(await _load(served, soaker, 2 * capacity_rps, minutes * 60))
        soaker_record.faults[:0] = record.faults
        record = soaker_record
    for _ in range(100):
        if not served.metric("coldforge_num_requests_running") + served.metric("coldforge_num_requests_waiting"):
            break
        await asyncio.sleep(0.1)
    memory, drift = [size for period in periods for size in period], _drift(periods[-1])
    in_use = served.metric("coldforge_kv_blocks_usage_ratio")
    if in_use:
        record.fault(f"{in_use:.0%} of the KV blocks are in use with nothing open")
    if abs(drift) > MAX_DRIFT:
        record.fault(f"memory drifted by {drift:.1%}, more than {MAX_DRIFT:.0%}")
    served.process.send_signal(signal.SIGTERM)
    if code := served.process.wait(60):
        record.fault(f"the server ended with {code}")
    return {
        "minutes": minutes,
        "periods": len(periods),
        "capacity_rps": capacity_rps,
        "sent_rps": 2 * capacity_rps,
        "num_measured": sum(measured.values()),
        "outcomes": {f"{kind}: {outcome}": n for (kind, outcome), n in sorted(record.outcomes.items())},
        "num_requests": record.outcomes.total(),
        "num_sent_again": record.num_sent_again,
        "num_not_sent": record.num_not_sent,
        "tokens_by_key": dict(record.tokens),
        "fairness_of_keys": jain([float(n) for n in record.tokens.values()]),
        "served_of_asked": {client: record.served[client] / asked for client, asked in record.asked.items()},
        "rss_mb": [round(size / 2**20, 1) for size in memory[:: max(1, len(memory) // 30)]],
        "memory_drift": drift,
        "kv_blocks_in_use_at_the_end": in_use,
        "streams": streams,
        "faults": record.faults,
    }


def _drift(memory: list[int]) -> float:
    """How much more the last tenth of a period takes than what follows its first fifth, as a share."""
    return median(memory[-len(memory) // 10 :]) / median(memory[len(memory) // 5 : 3 * len(memory) // 10]) - 1


async def _streams(http: httpx.AsyncClient, num_streams: int, record: Record) -> dict[str, float]:
    answer = await http.post(
        "/tokenize", json={"prompt": "a", "add_special_tokens": False}, headers={"Authorization": f"Bearer {KEYS['light'][0]}"}
    )
    token_id = answer.json()["tokens"][0]
    # They come within two seconds: this process is one thread, and would measure how long it takes to begin 200 at once.
    streams = (token_gaps(http, KEYS["light"][0], 128, token_id, 2 * i / num_streams) for i in range(num_streams))
    gc.disable()  # the client's own pauses are not the server's
    gaps = await asyncio.gather(*streams)
    gc.enable()
    longest = max(max(own) / fmean(own) for own in gaps)
    if longest > MAX_GAP:
        record.fault(f"a stream waited {longest:.1f} times its mean for a token, more than {MAX_GAP}")
    return {
        "num_streams": num_streams,
        "longest_gap_of_mean": longest,
        "fairness": jain([1 / fmean(own) for own in gaps]),
        "mean_gap_ms": 1e3 * fmean(gap for own in gaps for gap in own),
    }


def _draw(rng: random.Random) -> tuple[str, str, str]:
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    client = rng.choices(list(KEYS), [weight for _, weight in KEYS.values()])[0]
    return kind, client, KEYS[client][0]


async def _capacity(soaker: Soaker, num_clients: int, seconds: float = 10.0) -> float:
    """Requests a second of so many clients, each of which sends the next when the last has ended."""
    until_s = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < until_s:
            await soaker.send(*_draw(soaker.rng))

    await asyncio.gather(*(client() for _ in range(num_clients)))
    return soaker.record.outcomes.total() / seconds


async def _fill(soaker: Soaker) -> None:
    """As many requests at once as there will ever be open, so that what memory they need is there before the load."""
    await asyncio.gather(*(soaker.send(*_draw(soaker.rng)) for _ in range(_MAX_OPEN)))


async def _load(served: Served, soaker: Soaker, rate_rps: float, seconds: float) -> list[int]:
    """Sends at `rate_rps` on average, and gives the process's memory over time, in bytes."""
    begin_s = time.monotonic()
    sent: set[asyncio.Task[None]] = set()
    memory: list[int] = []
    due_s = begin_s
    while (now_s := time.monotonic()) < begin_s + seconds:
        if now_s - begin_s >= len(memory) * _SAMPLE_EVERY_S:
            memory.append(served.rss_bytes())
        if now_s - due_s > _LATE_S:  # the machine stood still: what was due meanwhile is not sent at once
            due_s = now_s
        while due_s <= now_s:
            if len(sent) >= _MAX_OPEN:  # more than this process can do
                soaker.record.num_not_sent += 1
                due_s += soaker.rng.expovariate(rate_rps)
                continue
            task = asyncio.create_task(soaker.send(*_draw(soaker.rng)))
            sent.add(task)
            task.add_done_callback(sent.discard)
            due_s += soaker.rng.expovariate(rate_rps)
        await asyncio.sleep(max(0.001, min(0.1, due_s - time.monotonic())))
    _, late = await asyncio.wait(sent, timeout=180) if sent else (set(), set())
    if late:
        soaker.record.fault(f"{len(late)} requests have not ended within 180 s")
    return memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with serving(options.bundle, "--max-queue", str(max(64, 2 * options.streams)), "--max-wait", "60") as served:
        result = asyncio.run(soak(served, options.minutes, options.streams))
    text = json.dumps(result, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")
    if result["faults"]:
        raise SystemExit("the soak has faults")


if __name__ == "__main__":
    main()
