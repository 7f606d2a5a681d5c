from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optimizer.measure.workload import Trace, Workload, decode_spans, prefill_spans, read_trace, resolve_workload
from optimizer.spec import WorkloadSpec

CSV = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def two_seconds(prompt_tokens: int, output_tokens: int) -> float:
    return 2.0


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_azures_csv(tmp_path: Path) -> None:
    rows = "2023-11-16 18:15:46.6805900,100,10\n2023-11-16 18:15:47.1805900,200,20\n2023-11-16 18:15:48.6805900,300,60\n"
    assert read_trace(written(tmp_path / "trace.csv", CSV + rows)) == Trace(200, 30, pytest.approx(1.0))


def test_mooncakes_jsonl(tmp_path: Path) -> None:
    rows = [{"timestamp": 1000 * i, "input_length": 8, "output_length": 2 + i, "hash_ids": [1]} for i in range(5)]
    path = written(tmp_path / "trace.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert read_trace(path) == Trace(8, 4, 1.0)


@pytest.mark.parametrize(("name", "text", "message"), [
    ("t.csv", CSV + "2023-11-16 18:15:46,1,1\nyesterday,1,1\n", r"t\.csv:3: a request needs TIMESTAMP .* 'yesterday'"),
    ("t.csv", "a,b\n1,2\n", r"t\.csv:2: a request needs TIMESTAMP"),
    ("t.csv", CSV + "2023-11-16 18:15:46,1\n", r"t\.csv:2: a request needs TIMESTAMP"),
    ("t.jsonl", '{"timestamp": 1, "input_length": 1, "output_length": 1}\n[]\n', r"t\.jsonl:2: a request needs timestamp"),
    ("t.jsonl", "not json\n", r"t\.jsonl:1: .* got not json"),
    ("t.jsonl", '{"timestamp": 1, "input_length": 1, "output_length": 1}\n', r"needs at least 2 requests .* got 1"),
    ("t.jsonl", 2 * '{"timestamp": 1, "input_length": 1, "output_length": 1}\n', r"all 2 requests have the same timestamp"),
])  # fmt: skip
def test_a_malformed_trace_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_trace(written(tmp_path / name, text))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, Workload(256, 128, 1)),
        ({"concurrency": 6, "prompt_tokens": 9, "output_tokens": 3}, Workload(9, 3, 6)),
        ({"arrival_rate_rps": 2.5}, Workload(256, 128, 5)),
        ({"arrival_rate_rps": 0.01}, Workload(256, 128, 1)),
    ],
)
def test_littles_law(spec: dict[str, Any], expected: Workload) -> None:
    assert resolve_workload(WorkloadSpec(**spec), two_seconds) == expected


def test_decode_spans_lie_on_blocks_of_their_own() -> None:
    spans = decode_spans(Workload(prompt_tokens=30, output_tokens=8, concurrency=3), 3, block_size=16)
    blocks = [block for span in spans for block in span.block_table]
    assert len(blocks) == len(set(blocks)) == 9
    assert all(span.start == 34 and len(span.token_ids) == 1 for span in spans)


def test_a_prompt_has_just_the_blocks_it_fills() -> None:
    assert [len(prefill_spans(n, 16)[0].block_table) for n in (1, 16, 17, 32)] == [1, 1, 2, 2]
