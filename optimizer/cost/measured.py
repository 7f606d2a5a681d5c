"""Costs measured on this machine: whole steps under each scheme, taken apart by layer group kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import numpy as np

from artifacts.layer_groups import kind_of
from artifacts.precision import KvDtype, Plan, Scheme
from optimizer.cost.provider import OF_KV_CACHE
from optimizer.measure.timing import typical_ms
from optimizer.measure.workbench import CpuWorkbench
from optimizer.measure.workload import Workload, decode_spans, prefill_spans
from optimizer.records.ledger import Ledger
from optimizer.records.plan_digest import plan_digest
from optimizer.records.progress import Reporter
from optimizer.records.record_key import record_key
from runtime.batch import Span, build_batch
from runtime.model_runner import ProgramRunner

#: prompts are computed in chunks of this many tokens when costs are measured
PREFILL_TOKENS = 256
_OTHER = "other"
_DECODE_STEPS, _PREFILL_STEPS = 11, 2

#: kind of layer group, or "other" for everything that no scheme changes -> milliseconds of one step
Parts = dict[str, float]


class MeasuredCost:
    """A `CostProvider` from profiles of whole steps, so that caches are as cold and threads as busy as in service.

    Each scheme is profiled once, all layer groups that can take it at a time; a plan's cost is the sum of its groups' parts.
    What schemes do not change (attention, norms) is the median over the profiles. `kv_cache` is what attention takes of a
    decode and of a prefill step by KV dtype, the one that schemes were profiled on first.
    """

    def __init__(
        self,
        decode: Mapping[str, Parts],
        prefill: Mapping[str, Parts],
        shapes: Iterable[str],
        workload: Workload,
        kv_cache: Mapping[KvDtype, Sequence[float]] = MappingProxyType({}),
    ) -> None:
        self._groups_of_kind = Counter(kind_of(group) for group in shapes)
        self._decode, self._prefill = decode, prefill
        self._workload = workload
        # A prompt is so many measured chunks long; its cost is spread over the tokens that follow it.
        self._prefill_weight = workload.prompt_tokens / min(workload.prompt_tokens, PREFILL_TOKENS) / workload.output_tokens
        self._other_ms = self._weighted(
            float(np.median([parts[_OTHER] for parts in decode.values()])),
            float(np.median([parts[_OTHER] for parts in prefill.values()])),
        )
        self._kv_ms = {dtype: self._weighted(*both) for dtype, both in kv_cache.items()}

    def latency_ms(self, plan: Plan, kv_dtype: KvDtype | None = None) -> float:
        more_ms = self.kv_ms(kv_dtype) - next(iter(self._kv_ms.values())) if kv_dtype else 0.0
        return self._other_ms + more_ms + sum(self.group_ms(group, scheme) for group, scheme in plan.items())

    def kv_ms(self, kv_dtype: KvDtype) -> float:
        return self._kv_ms[kv_dtype]

    def group_ms(self, group: str, scheme: Scheme) -> float:
        kind = kind_of(group)
        parts_ms = self._weighted(self._decode[scheme.name][kind], self._prefill[scheme.name][kind])
        return parts_ms / self._groups_of_kind[kind]

    def _weighted(self, decode_ms: float, prefill_ms: float) -> float:
        return decode_ms + self._prefill_weight * prefill_ms


def measure_costs(
    ledger: Ledger,
    reporter: Reporter,
    workbench: CpuWorkbench,
    schemes: Iterable[Scheme],
    baseline: Scheme,
    workload: Workload,
    kv_dtypes: Sequence[KvDtype],
) -> MeasuredCost:
    """Profile every scheme on `workbench`, whose KV dtype is the first of `kv_dtypes`, then these; each profile is a record."""
    shapes, timing = workbench.architecture.linear_shapes(), workbench.timing
    schemes = list(schemes)
    decode: dict[str, Parts] = {}
    prefill: dict[str, Parts] = {}
    for scheme in reporter.track(schemes, "step costs of schemes", len(schemes)):
        plan = {group: scheme if scheme.refusal(*shape) is None else baseline for group, shape in shapes.items()}
        key = record_key(f"cost/{scheme.name}", timing=timing, plan=plan_digest(plan), workload=workload)
        decode[scheme.name], prefill[scheme.name] = ledger.once(key, partial(profile_plan, workbench, plan, workload))
    plan = dict.fromkeys(shapes, baseline)
    with reporter.task("step costs of KV caches", 1) as advance:
        key = record_key("cost/kv_cache", timing=timing, plan=plan_digest(plan), workload=workload, kv_dtypes=kv_dtypes)
        kv_cache = ledger.once(key, lambda: _profile_kv_caches(workbench, plan, workload, kv_dtypes))
        advance()
    return MeasuredCost(decode, prefill, shapes, workload, kv_cache)


def _profile_kv_caches(
    workbench: CpuWorkbench, plan: Plan, workload: Workload, kv_dtypes: Sequence[KvDtype]
) -> dict[KvDtype, list[float]]:
    """Milliseconds of attention in a decode step and in a step of the prompt, by KV dtype; the dtypes take turns."""
    benches = {dtype: replace(workbench, kv_dtype=dtype) for dtype in kv_dtypes}
    found: dict[KvDtype, list[float]] = {dtype: [] for dtype in kv_dtypes}
    num_tokens = min(workload.prompt_tokens, PREFILL_TOKENS)
    decode = decode_spans(workload, workload.concurrency, workbench.kv_block_size)
    for spans, num_steps in (
        (decode, _DECODE_STEPS),
        (prefill_spans(num_tokens, workbench.kv_block_size), _PREFILL_STEPS),
    ):
        runners = {dtype: _filled(bench, plan, spans) for dtype, bench in benches.items()}
        samples: defaultdict[KvDtype, list[float]] = defaultdict(list)
        for _ in range(num_steps + 1):
            for dtype, runner in runners.items():
                times = zip(runner.step.program.calls, runner.executable.profile_ms(), strict=True)
                samples[dtype].append(sum(ms for call, ms in times if kind_of(call.label) in OF_KV_CACHE))
        for dtype in kv_dtypes:
            found[dtype].append(typical_ms(samples[dtype][1:]))  # the first step pays for page faults
    return found


def profile_plan(workbench: CpuWorkbench, plan: Plan, workload: Workload) -> list[Parts]:
    """A decode step of `workload` and a step of its prompt under `plan`, each taken apart."""
    num_tokens = min(workload.prompt_tokens, PREFILL_TOKENS)
    decode = decode_spans(workload, workload.concurrency, workbench.kv_block_size)
    return [
        _profile(workbench, plan, decode, _DECODE_STEPS),
        _profile(workbench, plan, prefill_spans(num_tokens, workbench.kv_block_size), _PREFILL_STEPS),
    ]


def _profile(workbench: CpuWorkbench, plan: Plan, spans: list[Span], num_steps: int) -> Parts:
    runner = _filled(workbench, plan, spans)
    samples: defaultdict[str, list[float]] = defaultdict(list)
    for index in range(num_steps + 1):
        parts: defaultdict[str, float] = defaultdict(float)
        for call, ms in zip(runner.step.program.calls, runner.executable.profile_ms(), strict=True):
            parts[kind_of(call.label) if call.label in plan else _OTHER] += ms
        if index:  # the first step pays for page faults
            for kind, ms in parts.items():
                samples[kind].append(ms)
    return {kind: typical_ms(times) for kind, times in samples.items()}


def _filled(workbench: CpuWorkbench, plan: Plan, spans: list[Span]) -> ProgramRunner:
    """A runner with room for the step of `spans`, which it runs next."""
    num_tokens = sum(len(span.token_ids) for span in spans)
    num_kv_tokens = sum(len(span.block_table) for span in spans) * workbench.kv_block_size
    runner = workbench.runner(plan, num_tokens, num_kv_tokens, max_num_seqs=len(spans))
    runner.fill(build_batch(spans, workbench.kv_block_size))
    return runner
