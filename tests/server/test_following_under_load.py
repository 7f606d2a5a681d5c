"""20 moves of a name under 8 streams, 2 of them to broken bundles: every answer is whole, and of one bundle."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from artifacts.registry import Registry
from runtime import Engine
from tests.server.following import NAME, flip_a_byte, with_other_records, write_bundle
from tests.server.serving_process import ServingProcess, serving
from tests.server.watching import watching_health
from tests.small_bundle import LIMITS
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.alone]
NUM_CLIENTS, NUM_MOVES, BROKEN_MOVES = 8, 20, (6, 13)
PROMPTS = [f"Prompt {i} of a client that reads along" for i in range(NUM_CLIENTS)]
LENGTHS = (30, 90, 150)
#: 32 MiB of keys and values: a bundle that stays in memory shows
ROOMY = LIMITS.model_copy(update={"num_kv_blocks": 4096, "max_num_seqs": 8})
CACHE_BYTES = 4096 * 16 * 512


def options(length: int) -> dict[str, Any]:
    return {"max_tokens": length, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def bundles(kernels_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four that work, one that will be damaged, one whose self-test fails."""
    folder = tmp_path_factory.mktemp("bundles")
    whole = [write_bundle(folder / str(seed), kernels_path, seed, limits=ROOMY) for seed in range(5)]
    return [*whole, with_other_records(whole[0], folder / "lying", kernels_path)]


def answers_of(bundle: Path) -> dict[tuple[str, int], str]:
    """What the bundle alone answers, by prompt and length."""
    with Engine(bundle) as engine:
        found = {}
        for length in LENGTHS:
            generated = engine.generate(PROMPTS, **options(length))
            found |= {(prompt, length): one.text for prompt, one in zip(PROMPTS, generated, strict=True)}
        return found


class Clients:
    """Threads that stream without a pause, and compare each answer with that of the bundle which it says it is from."""

    def __init__(self, server: ServingProcess, expected: dict[str, dict[tuple[str, int], str]]) -> None:
        self.faults: list[str] = []
        self.seen: set[str] = set()
        self.num_answers = 0
        self._server = server
        self._expected = expected
        self._ended = threading.Event()

    @contextmanager
    def reading(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._read, args=(prompt,)) for prompt in PROMPTS]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join(60)

    def _read(self, prompt: str) -> None:
        client = self._server.client
        for turn in range(100_000):
            if self._ended.is_set():
                return
            length = LENGTHS[turn % len(LENGTHS)]
            try:
                body: Any = {**options(length), "extra_body": {"ignore_eos": True}}
                del body["ignore_eos"]
                chunks = list(client.completions.create(model="tiny", prompt=prompt, stream=True, **body))
                fingerprints = {chunk.system_fingerprint for chunk in chunks}
                (fingerprint,) = fingerprints
                text = "".join(chunk.choices[0].text for chunk in chunks)
                if chunks[-1].choices[0].finish_reason != "length":
                    self.faults.append(f"an answer of {fingerprint} has no end")
                if text != self._expected[str(fingerprint)][prompt, length]:
                    self.faults.append(f"{fingerprint} answers otherwise alone")
                self.seen.add(str(fingerprint))
                self.num_answers += 1
            except Exception as error:
                self.faults.append(repr(error))


def counters(url: str) -> dict[str, float]:
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=60).text)
    samples = [sample for family in families for sample in family.samples]
    return {
        " ".join((s.name, *s.labels.values())): s.value for s in samples if s.name.endswith(("_total", "_count", "_bucket"))
    }


def resident_bytes(server: ServingProcess) -> int:
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_no_stream_notices(bundles: list[Path], tmp_path: Path) -> None:
    registry = Registry.create(tmp_path / "registry")
    digests = [registry.add(bundle) for bundle in bundles]
    good, (damaged, lying) = digests[:4], digests[4:]
    expected = {f"fp_{digest[:12]}": answers_of(bundle) for digest, bundle in zip(good, bundles, strict=False)}
    flip_a_byte(registry, damaged)
    registry.promote(NAME, good[0], why="the first")
    served = good[0]
    resident: list[int] = []
    before: dict[str, float] = {}
    with serving(Path(NAME), tmp_path / "log", "--registry", str(registry.root)) as server:
        url = f"http://127.0.0.1:{server.port}"
        clients = Clients(server, expected)

        def digest() -> str:
            return str(httpx.get(f"{url}/v1/models", timeout=60).json()["data"][0]["digest"])

        with watching_health(url) as health_s, clients.reading():
            for move in range(NUM_MOVES):
                wanted = good[(good.index(served) + 1 + move % 2) % len(good)]
                if move in BROKEN_MOVES:
                    registry.promote(NAME, (damaged, lying)[BROKEN_MOVES.index(move)], why="looks better")
                    wait_for(lambda: registry.digest_of(NAME) == served, 60)  # noqa: B023 - at once
                    assert digest() == served
                else:
                    registry.promote(NAME, wanted, why="better")
                    wait_for(lambda: digest() == wanted, 60)  # noqa: B023 - at once
                    served = wanted
                now = counters(url)
                assert not {name for name, value in before.items() if now[name] < value}
                before = now
                num_moved = int(now.get("coldforge_bundle_moves_total moved", 0))
                wait_for(lambda: server.said().count("is out of memory") == num_moved, 60)  # noqa: B023 - at once
                resident.append(resident_bytes(server))
        moves = {outcome: now.get(f"coldforge_bundle_moves_total {outcome}", 0) for outcome in ("moved", "rolled_back")}
        print(f"{clients.num_answers} answers; RSS in MiB {[size >> 20 for size in resident]}; /health {max(health_s):.3f} s")
    assert not clients.faults, clients.faults[:5]
    assert clients.seen == expected.keys() and clients.num_answers > 10 * NUM_MOVES
    assert moves == {"moved": NUM_MOVES - 2, "rolled_back": 2}
    assert [event.digest for event in registry.events() if event.action == "rollback"]
    assert median(resident[-5:]) < median(resident[:5]) + CACHE_BYTES // 2, "the memory of old bundles is given back"
