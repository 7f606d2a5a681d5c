"""A plan's speed beside the unquantized model's, in turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from artifacts.precision import Plan
from optimizer.evaluation import Estimate
from optimizer.measure.timing import interleaved_ms
from optimizer.measure.workbench import CpuWorkbench
from optimizer.measure.workload import Workload, decode_spans, prefill_spans
from runtime.batch import build_batch

NUM_PAIRS = 9
#: order statistics of 9 ratios that enclose their median with 96 % confidence (binomial, ranks 2 and 8)
_LOW_RANK, _HIGH_RANK = 1, 7


@dataclass(frozen=True)
class PairedSpeed:
    """Baseline and candidate in turn, A B A B. `speedup` is the median ratio of a pair and its 95 % interval.

    Where the device is modelled (`measured` is false) it is the ratio of two modelled times, and the interval is that point.
    """

    baseline_ms: float
    candidate_ms: float
    speedup: Estimate
    measured: bool = True


def measure_pair(
    baseline: tuple[CpuWorkbench, Plan],
    candidate: tuple[CpuWorkbench, Plan],
    workload: Workload,
    num_tokens: int | None,
    on_pair: Callable[[], object],
) -> PairedSpeed:
    """Single-stream decode steps of both, or with `num_tokens` the step that computes a prompt of so many."""
    actions = {}
    for name, (workbench, plan) in {"baseline": baseline, "candidate": candidate}.items():
        block_size = workbench.kv_block_size
        spans = prefill_spans(num_tokens, block_size) if num_tokens else decode_spans(workload, 1, block_size)
        runner = workbench.runner(plan, len(spans[0].token_ids), len(spans[0].block_table) * block_size)
        runner.fill(build_batch(spans, block_size))
        actions[name] = runner.executable.run
    samples = interleaved_ms(actions, rounds=NUM_PAIRS, min_round_ms=60.0, on_round=on_pair)
    ratios = np.sort(np.divide(samples["baseline"], samples["candidate"]))
    return PairedSpeed(
        baseline_ms=float(np.median(samples["baseline"])),
        candidate_ms=float(np.median(samples["candidate"])),
        speedup=Estimate(float(np.median(ratios)), float(ratios[_LOW_RANK]), float(ratios[_HIGH_RANK])),
    )
