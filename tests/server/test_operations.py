"""Over HTTP: keys of a file, request ids, /ready, logs as JSON. None of it tells a key, a prompt or an answer."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from runtime.cli import serve
from runtime.server.access_log import JsonFormatter
from runtime.server.api_key import ApiKeys, read_keys

BODY = {"model": "tiny", "prompt": "a secret prompt", "temperature": 0, "max_tokens": 5}


def line_of(name: str, key: str) -> str:
    return f"{name}:{sha256(key.encode()).hexdigest()}\n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# who may come in\n\n{line_of('alice', 'sesame')}  {line_of('bob-2.x', 'open')}")
    return path


@pytest.fixture(scope="module")
def guarded(run_server: Any, keys: Path) -> Iterator[Any]:
    with run_server(api_key="own", api_keys=keys) as served:
        yield served


def status(served: Any, key: str | None, path: str = "/v1/models") -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{served.url}{path}", headers=headers).status_code


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("sesame", 200),
        ("open", 200),
        ("own", 200),
        ("Sesame", 401),
        ("alice", 401),
        (None, 401),
        (sha256(b"sesame").hexdigest(), 401),
        ("sesameopen", 401),
    ],
)
def test_keys_of_a_file_and_the_one_of_the_command_line(guarded: Any, key: str | None, expected: int) -> None:
    assert status(guarded, key) == expected


def test_a_key_of_a_file_in_the_header_of_anthropics_clients(guarded: Any) -> None:
    assert httpx.get(f"{guarded.url}/v1/models", headers={"x-api-key": "open"}).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/version"])
def test_probes_need_no_key(guarded: Any, path: str) -> None:
    assert status(guarded, None, path) == 200


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must have at least one, got none"),
        ("# nobody\n", "must have at least one, got none"),
        ("alice\n", ":1: a key must have 64 lower-case hexadecimal digits after 'alice' and the colon, got 0 characters"),
        (f"{line_of('a', 'x')}\nsesame-in-the-clear\n", ":3: a key must have 64 lower-case"),
        (f"a:{'0' * 63}\n", "got 63 characters"),
        (f"a:{'G' * 64}\n", "64 lower-case hexadecimal digits"),
        (f"{'n' * 65}:{'0' * 64}\n", ":1: a key must begin with a name of 1 to 64"),
        (f"a b:{'0' * 64}\n", "begin with a name"),
        (f":{'0' * 64}\n", "begin with a name"),
        (f"{line_of('a', 'x')}{line_of('a', 'y')}", ":2: a key must have a name of its own, and 'a' stands above"),
    ],
)
def test_a_malformed_file_is_refused_by_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    done = CliRunner().invoke(serve, [str(tmp_path), "--api-keys", str(path)])
    assert done.exit_code == 1
    assert complaint in done.output and str(path) in done.output
    assert "sha256sum" in done.output or "got none" in done.output
    assert "0000" not in done.output, "a digest is not told"


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("absent", "binary"):
        done = CliRunner().invoke(serve, [str(tmp_path), "--api-keys", str(tmp_path / name)])
        assert done.exit_code == 1
        assert "a file of API keys must be a readable UTF-8 file" in done.output


def test_a_changed_file_counts_and_a_broken_one_does_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    path = tmp_path / "keys"
    path.write_text(line_of("alice", "old"))
    keys = ApiKeys(None, path, lambda: now_s)
    assert keys.name_of("Bearer old") == "alice"
    replace(path, line_of("alice", "new") + line_of("bob", "other"))
    assert keys.name_of("Bearer new") is None, "it looks once a second"
    now_s = 1.1
    assert [keys.name_of(f"Bearer {key}") for key in ("old", "new", "other")] == [None, "alice", "bob"]
    replace(path, "broken\n")
    now_s = 2.2
    assert keys.name_of("Bearer new") == "alice"
    assert "the API keys stay as they were" in caplog.text and ":1:" in caplog.text
    path.unlink()
    now_s = 3.3
    assert keys.name_of("Bearer new") == "alice"
    replace(path, line_of("carol", "last"))
    now_s = 4.4
    assert [keys.name_of(f"Bearer {key}") for key in ("new", "last")] == [None, "carol"]


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def test_only_digests_are_kept(keys: Path) -> None:
    assert "sesame" not in str(vars(ApiKeys("sesame", keys)))
    assert read_keys(keys).keys() == {"alice", "bob-2.x"}


def test_a_key_may_be_withdrawn_while_the_server_runs(run_server: Any, wait: Any, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(line_of("alice", "sesame") + line_of("bob", "open"))
    with run_server(api_keys=path) as served:
        assert status(served, "open") == 200
        replace(path, line_of("alice", "sesame"))
        wait(lambda: status(served, "open") == 401, 5)
        assert status(served, "sesame") == 200


# Request ids


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/health", "/nowhere"])
@pytest.mark.parametrize("given", ["abc-123", "x" * 128, "!#$~"])
def test_a_request_keeps_its_id(served: Any, path: str, given: str) -> None:
    answer = httpx.post(f"{served.url}{path}", json={}, headers={"x-request-id": given})
    assert answer.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "sch\xf6n"])
def test_others_get_one(served: Any, given: str | None) -> None:
    headers = {} if given is None else {"x-request-id": given.encode("latin-1")}
    ids = {httpx.get(f"{served.url}/version", headers=headers).headers["x-request-id"] for _ in range(3)}  # type: ignore[arg-type]
    assert len(ids) == 3 and all(len(id) == 32 and id.isalnum() for id in ids)


def test_streams_and_refusals_have_one_too(guarded: Any) -> None:
    headers = {"Authorization": "Bearer own", "x-request-id": "r1"}
    for body in (BODY | {"stream": True}, BODY | {"n": 0}, BODY | {"prompt": "x" * 10**7}):
        assert httpx.post(f"{guarded.url}/v1/completions", json=body, headers=headers).headers["x-request-id"] == "r1"
    refused = httpx.get(f"{guarded.url}/v1/models", headers={"x-request-id": "r2"})
    assert refused.status_code == 401 and refused.headers["x-request-id"] == "r2"


# /ready


def test_ready_when_loaded_and_until_it_drains(run_server: Any, wait: Any) -> None:
    with run_server(runner_options={"step_time_s": 0.02}) as served:
        answer = httpx.get(f"{served.url}/ready")
        assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
        stream = iter(served.client().completions.create(stream=True, **BODY | {"max_tokens": 100}))
        next(stream)
        served.server.handle_exit(signal.SIGTERM, None)
        answer = httpx.get(f"{served.url}/ready")
        assert len(list(stream)) > 50, "what is open ends as if nothing had happened"
        assert answer.status_code == 503 and "shutting down" in answer.json()["error"]["message"]


def test_not_ready_while_it_loads(run_server: Any, wait: Any) -> None:
    may_load = threading.Event()
    with run_server(before_load=lambda: may_load.wait(10), wait_until_loaded=False) as served:
        assert httpx.get(f"{served.url}/ready").status_code == 503
        may_load.set()
        wait(lambda: httpx.get(f"{served.url}/ready").status_code == 200)


def test_not_ready_with_a_broken_engine(run_server: Any) -> None:
    with run_server() as served:
        served.server.service.engine.broken = True
        assert httpx.get(f"{served.url}/ready").status_code == 503


# Logs


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[dict[str, Any]]]:
    """What `--log-format json` writes, line by line."""
    written: list[dict[str, Any]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(json.loads(self.format(record)))

    handler = Handler(logging.INFO)
    handler.setFormatter(JsonFormatter())
    with caplog.at_level(logging.INFO, logger="runtime"):
        logging.getLogger("runtime").addHandler(handler)
        yield written
        logging.getLogger("runtime").removeHandler(handler)


def test_a_line_for_each_request(guarded: Any, lines: list[dict[str, Any]], wait: Any) -> None:
    headers = {"Authorization": "Bearer open", "x-request-id": "r7"}
    httpx.post(f"{guarded.url}/v1/completions", json=BODY, headers=headers)
    httpx.get(f"{guarded.url}/a/secret/path?with=secrets", headers={"x-request-id": "r8"})
    wait(lambda: {"r7", "r8"} <= {line.get("request_id") for line in lines})
    (line,) = (line for line in lines if line.get("request_id") == "r7")
    assert line.pop("duration_ms") > 0
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "runtime.server.access_log",
        "message": "POST /v1/completions 200",
        "request_id": "r7",
        "client": "bob-2.x",
        "method": "POST",
        "route": "/v1/completions",
        "status": 200,
    }
    (line,) = (line for line in lines if line.get("request_id") == "r8")
    assert (line["status"], line["client"], line["route"]) == (401, "", "other")


def test_no_line_has_a_prompt_an_answer_or_a_key(guarded: Any, lines: list[dict[str, Any]]) -> None:
    headers = {"Authorization": "Bearer sesame"}
    client = httpx.Client(base_url=guarded.url, headers=headers, timeout=30)
    chat = {"messages": [{"role": "user", "content": "a secret prompt"}], "max_tokens": 5}
    for path, body in (
        ("/v1/completions", BODY),
        ("/v1/completions", BODY | {"stream": True}),
        ("/v1/completions", BODY | {"unheard_of": "a secret prompt"}),
        ("/v1/completions", BODY | {"n": "a secret prompt"}),
        ("/v1/chat/completions", chat),
        ("/tokenize", {"prompt": "a secret prompt"}),
    ):
        client.post(path, json=body)
    guarded.runner.failure = RuntimeError("boom")
    client.post("/v1/completions", json=BODY)
    guarded.runner.failure = None
    text = json.dumps(lines)
    assert "boom" in text and "traceback" in text
    assert "secret" not in text and "sesame" not in text and "quick" not in text
