"""The shape of the traffic that a bundle is made for."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean

from artifacts.errors import UserError
from artifacts.text_file import read_text
from optimizer.spec import WorkloadSpec
from runtime.batch import Span

_ANY_TOKEN = 7  # what a token is does not change what it costs


@dataclass(frozen=True)
class Workload:
    """`concurrency` requests at once, each with so many tokens in and out."""

    prompt_tokens: int
    output_tokens: int
    concurrency: int


@dataclass(frozen=True)
class Trace:
    """Mean lengths and arrival rate of recorded requests."""

    prompt_tokens: int
    output_tokens: int
    arrival_rate_rps: float


def resolve_workload(spec: WorkloadSpec, request_seconds: Callable[[int, int], float]) -> Workload:
    """The workload that `spec` describes. `request_seconds` (prompt, output tokens) says how long one request takes alone.

    An arrival rate becomes a concurrency by Little's law: requests in flight = rate x time of one.
    """
    if spec.trace is not None:
        trace = read_trace(spec.trace)
        prompt, output, rate = trace.prompt_tokens, trace.output_tokens, trace.arrival_rate_rps
    elif spec.arrival_rate_rps is not None:
        prompt, output, rate = spec.prompt_tokens, spec.output_tokens, spec.arrival_rate_rps
    else:
        assert spec.concurrency is not None
        return Workload(spec.prompt_tokens, spec.output_tokens, spec.concurrency)
    return Workload(prompt, output, max(1, round(rate * request_seconds(prompt, output))))


def read_trace(path: Path) -> Trace:
    """A trace as CSV (TIMESTAMP, ContextTokens, GeneratedTokens: Azure's) or JSONL (timestamp in ms, input_length,
    output_length: Mooncake's). UserError names the line that is neither."""
    rows = list(_jsonl_rows(path) if path.suffix == ".jsonl" else _csv_rows(path))
    if len(rows) < 2:
        raise UserError(f"{path}: a trace needs at least 2 requests to have a rate, got {len(rows)}")
    times = [seconds for seconds, _, _ in rows]
    span = max(times) - min(times)
    if span <= 0:
        raise UserError(f"{path}: all {len(rows)} requests have the same timestamp, so the trace has no rate")
    return Trace(
        prompt_tokens=max(1, round(fmean(prompt for _, prompt, _ in rows))),
        output_tokens=max(1, round(fmean(output for _, _, output in rows))),
        arrival_rate_rps=(len(rows) - 1) / span,
    )


def decode_spans(workload: Workload, num_seqs: int, block_size: int) -> list[Span]:
    """A step of `num_seqs` sequences in the middle of their output, each on blocks of its own."""
    context = workload.prompt_tokens + workload.output_tokens // 2
    num_blocks = context // block_size + 1
    return [Span([_ANY_TOKEN], context, range(i * num_blocks, (i + 1) * num_blocks), num_logits=1) for i in range(num_seqs)]


def prefill_spans(num_tokens: int, block_size: int) -> list[Span]:
    """A step of one prompt from its beginning, its last token sampled."""
    return [Span([_ANY_TOKEN] * num_tokens, 0, range((num_tokens - 1) // block_size + 1), num_logits=1)]


def _csv_rows(path: Path) -> list[tuple[float, int, int]]:
    rows = []
    for number, row in enumerate(csv.DictReader(read_text(path, "a trace").splitlines()), start=2):
        try:
            # Azure writes seven fractional digits; datetime reads six.
            moment = datetime.fromisoformat(row["TIMESTAMP"][:26])
            rows.append((moment.timestamp(), int(row["ContextTokens"]), int(row["GeneratedTokens"])))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}:{number}: a request needs TIMESTAMP (ISO 8601), ContextTokens and GeneratedTokens, got {row}"
            ) from error
    return rows


def _jsonl_rows(path: Path) -> list[tuple[float, int, int]]:
    rows = []
    for number, line in enumerate(read_text(path, "a trace").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append((float(row["timestamp"]) / 1000, int(row["input_length"]), int(row["output_length"])))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}:{number}: a request needs timestamp (ms), input_length and output_length, got {line[:80]}"
            ) from error
    return rows
