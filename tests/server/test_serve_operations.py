"""The options for operations on a `serve` of its own: keys, logs, traces, idle connections."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from optimizer.importers.from_path import open_source
from tests.server.serving_process import ServingProcess, serving
from tests.small_bundle import write_small_bundle
from tests.tiny_models import byte_tokenizer, random_llama, save_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def server(kernels_path: Path, folder: Path) -> Iterator[ServingProcess]:
    source = open_source(save_tiny(folder / "model", random_llama(byte_tokenizer().get_vocab_size())))
    bundle = write_small_bundle(folder / "bundle", source, folder / "store", kernels_path)
    (folder / "keys").write_text(f"alice:{sha256(b'sesame').hexdigest()}\n")
    (folder / "peaks.json").write_text('{"peaks": {"memory_gbps": 1000, "float_gflops": 10000, "int8_gops": 40000}}')
    options = ("--api-keys", folder / "keys", "--log-format", "json", "--log-requests", folder / "requests.jsonl")
    more = ("--http-keep-alive", "1", "--peaks", folder / "peaks.json")
    with serving(bundle, folder / "stderr", *map(str, (*options, *more))) as server:
        yield server


def post(server: ServingProcess, key: str, **body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}", "x-request-id": "r1"}
    url = f"http://127.0.0.1:{server.port}/v1/completions"
    return httpx.post(url, json={"prompt": "a secret prompt", "max_tokens": 4} | body, headers=headers, timeout=60)


def test_keys_log_and_trace(server: ServingProcess, folder: Path) -> None:
    assert post(server, "other").status_code == 401
    answer = post(server, "sesame")
    assert answer.status_code == 200 and answer.headers["x-request-id"] == "r1"
    assert answer.json()["usage"]["completion_tokens"] <= 4
    lines = [json.loads(line) for line in server.said().splitlines()]
    assert any(line["message"].startswith("serving tiny at http://127.0.0.1:") for line in lines)
    asked = [(line["status"], line["client"]) for line in lines if line.get("request_id") == "r1"]
    assert asked == [(401, ""), (200, "alice")]
    assert "secret" not in server.said() and "sesame" not in server.said()
    (traced,) = (json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines())
    assert traced["input_length"] == answer.json()["usage"]["prompt_tokens"]
    assert traced["output_length"] == answer.json()["usage"]["completion_tokens"]


def test_shares_of_the_peaks_of_a_real_model(server: ServingProcess) -> None:
    post(server, "sesame", max_tokens=40, ignore_eos=True)
    text = httpx.get(f"http://127.0.0.1:{server.port}/metrics").text
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert 0 < float(samples["coldforge_memory_peak_ratio"]) < 1
    assert 0 < float(samples["coldforge_compute_peak_ratio"]) < 1
    bounds = [float(samples[f'coldforge_bound{{by="{by}"}}']) for by in ("memory", "compute")]
    assert sorted(bounds) == [0, 1]


def test_an_idle_connection_is_closed_when_it_was_said_to_be(server: ServingProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        begin_s = time.monotonic()
        while connection.recv(4096):
            pass
        assert 0.5 < time.monotonic() - begin_s < 4
