"""`serve --log-requests` over HTTP: a trace of lengths, times and hashes, which the optimizer reads, and no text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from artifacts.errors import UserError
from optimizer.measure.workload import read_trace
from runtime.server.request_log import RequestLog
from tests.server.conftest import limits

LONG = limits(max_model_len=1024, num_kv_blocks=256, max_num_batched_tokens=256)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "requests.jsonl"


def test_a_line_for_each_choice(run_server: Any, wait: Any, path: Path) -> None:
    with run_server(request_log=RequestLog(path), runner_options=LONG) as served:
        url = f"{served.url}/v1/completions"
        text = "a secret prompt " * 45
        num_tokens = len(served.encode(text))
        httpx.post(url, json={"prompt": text, "max_tokens": 3, "n": 2})
        httpx.post(url, json={"prompt": [text, "Hi"], "max_tokens": 5, "stream": True})
        httpx.post(f"{served.url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2})
        httpx.post(url, json={"prompt": text, "max_tokens": 10_000})  # refused
        wait(lambda: len(lines_of(path)) >= 5)
    lines = lines_of(path)
    assert [line["output_length"] for line in lines] == [3, 3, 5, 5, 2]
    assert [line["input_length"] for line in lines[:3]] == [num_tokens] * 3
    assert all(line.keys() == {"timestamp", "input_length", "output_length", "hash_ids"} for line in lines)
    assert all(len(line["hash_ids"]) == -(-line["input_length"] // 512) for line in lines)
    assert lines[0]["hash_ids"] == lines[1]["hash_ids"] == lines[2]["hash_ids"] != lines[3]["hash_ids"]
    assert [line["timestamp"] for line in lines] == sorted(line["timestamp"] for line in lines)
    assert "secret" not in path.read_text()
    trace = read_trace(path)
    assert trace.prompt_tokens > 0 and trace.arrival_rate_rps > 0


def test_who_leaves_is_logged_with_what_it_got(run_server: Any, wait: Any, path: Path) -> None:
    with run_server(request_log=RequestLog(path), runner_options={"step_time_s": 0.02}) as served:
        body = {"prompt": "Hi", "max_tokens": 400, "stream": True}
        with httpx.stream("POST", f"{served.url}/v1/completions", json=body) as answer:
            next(answer.iter_lines())
        wait(lambda: lines_of(path))
    (line,) = lines_of(path)
    assert 1 <= line["output_length"] < 400


def test_hashes_are_of_512_tokens_and_all_before_them(path: Path) -> None:
    log = RequestLog(path)
    tokens = list(range(2000))
    ids = log.hash_ids(tokens)
    assert len(ids) == 4 and len(set(ids)) == 4 and all(0 <= id < 2**52 for id in ids)
    assert log.hash_ids(tokens[:1024]) == ids[:2]
    assert log.hash_ids(tokens[:1025])[:2] == ids[:2]
    assert not set(log.hash_ids([9, *tokens])) & set(ids)
    assert log.hash_ids([]) == []


def test_no_text_can_be_tried_against_them(tmp_path: Path) -> None:
    """Another process has another secret."""
    first, second = (RequestLog(tmp_path / name) for name in "ab")
    assert first.hash_ids([1, 2, 3]) != second.hash_ids([1, 2, 3])


def test_a_file_is_gone_on_with(path: Path) -> None:
    path.write_text('{"timestamp": 5000, "input_length": 1, "output_length": 1, "hash_ids": [7]}\n')
    import time

    log = RequestLog(path)
    log.write(time.perf_counter(), 3, 4, [8])
    assert [line["input_length"] for line in lines_of(path)] == [1, 3]
    assert lines_of(path)[1]["timestamp"] >= 5000


@pytest.mark.parametrize("text", ["not json\n", "[]\n", "{}\n", '{"timestamp": "x"}\n'])
def test_another_file_is_not_written_to(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(UserError, match="a log of requests must be a new file or one that was written here"):
        RequestLog(path)
    assert path.read_text() == text


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a log of requests"):
        RequestLog(tmp_path)


def test_a_full_disk_ends_the_log_and_not_the_serving(run_server: Any, caplog: pytest.LogCaptureFixture) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no device that is always full here")
    with run_server() as served:
        served.server.service.request_log = RequestLog.__new__(RequestLog)
        log = served.server.service.request_log
        log.__dict__.update(_file=full.open("w"), _secret=b"x", _begin_s=0.0, _has_failed=False)
        for _ in range(3):
            answer = httpx.post(f"{served.url}/v1/completions", json={"prompt": "Hi", "max_tokens": 1})
            assert answer.status_code == 200
        served.server.service.request_log = None
    assert caplog.text.count("requests are no longer logged") == 1
