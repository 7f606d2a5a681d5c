"""The steps that a bundle serves a workload with, on its own library and within its own limits; and a process that times them.

    python -m optimizer.measure.served_steps BUNDLE WORKLOAD

writes "ready" once the bundle is loaded, and for each line "PHASE MS" that it reads the milliseconds of one call, the lower
quartile of as many as fill MS (decision 0053). `MeasuredBundle` is its other end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter_ns
from typing import Literal, get_args

from artifacts.errors import UserError
from artifacts.manifest import Limits
from optimizer.measure.timing import typical_ms
from optimizer.measure.workload import Workload, decode_spans
from runtime.batch import Batch, Span, build_batch
from runtime.loading import open_runner
from runtime.model_runner import ModelRunner

Phase = Literal["decode", "prefill"]
_ANY_TOKEN = 7
_READY = "ready"


def num_seqs_at_once(limits: Limits, workload: Workload) -> int:
    """How many of the workload's requests decode in one step within `limits`."""
    blocks_each = _context(limits, workload) // limits.kv_block_size + 1
    return max(1, min(workload.concurrency, limits.max_num_seqs, limits.num_kv_blocks // blocks_each))


def served_batches(limits: Limits, workload: Workload) -> dict[Phase, list[Batch]]:
    """Phase -> the steps of one call: one token for each request that runs, or all chunks of one prompt."""
    size, chunk = limits.kv_block_size, limits.max_num_batched_tokens
    within = Workload(_context(limits, workload), 1, workload.concurrency)
    decode = decode_spans(within, num_seqs_at_once(limits, workload), size)
    num_tokens = min(workload.prompt_tokens, limits.max_model_len)
    blocks = range(-(-num_tokens // size))
    prompt = [
        Span([_ANY_TOKEN] * min(chunk, num_tokens - start), start, blocks, num_logits=int(start + chunk >= num_tokens))
        for start in range(0, num_tokens, chunk)
    ]
    return {"decode": [build_batch(decode, size)], "prefill": [build_batch([span], size) for span in prompt]}


def _context(limits: Limits, workload: Workload) -> int:
    """Tokens behind which a decode step is measured: the middle of an output, as far as the bundle reaches."""
    return min(workload.prompt_tokens + workload.output_tokens // 2, limits.max_model_len - 1)


class MeasuredBundle:
    """A process that has loaded a bundle as `serve` does, and does nothing until it is asked. UserError where it cannot."""

    def __init__(self, folder: Path, workload: Workload) -> None:
        self._folder = folder
        command = [sys.executable, "-m", "optimizer.measure.served_steps", str(folder), json.dumps(asdict(workload))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_until_ready(self) -> None:
        self._answer()

    def ms(self, phase: Phase, at_least_ms: float) -> float:
        """Milliseconds of one call of `phase`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{phase} {at_least_ms}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UserError(f"{self._folder} could not be measured: its process ended; what it said is above")
        return line.strip()


def _time(runner: ModelRunner, batches: list[Batch], at_least_ms: float) -> float:
    found: list[float] = []
    left_ms = at_least_ms
    while left_ms > 0 or not found:
        begin_ns = perf_counter_ns()
        for batch in batches:
            runner.run(batch)
        found.append((perf_counter_ns() - begin_ns) / 1e6)
        left_ms -= found[-1]
    return typical_ms(found)


def _serve(folder: Path, workload: Workload) -> None:
    _, runner = open_runner(folder)
    batches: Mapping[Phase, list[Batch]] = served_batches(runner.limits, workload)
    for phase in get_args(Phase):
        _time(runner, batches[phase], 0.0)
    print(_READY, flush=True)
    for line in sys.stdin:
        asked, at_least_ms = line.split()
        (phase,) = (known for known in batches if known == asked)
        print(_time(runner, batches[phase], float(at_least_ms)), flush=True)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Workload(**json.loads(sys.argv[2])))
