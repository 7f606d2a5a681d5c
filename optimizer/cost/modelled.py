"""Costs of a GPU that may not be here: modelled times of every kernel of a step, summed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from artifacts.architecture import Architecture
from artifacts.layer_groups import kind_of
from artifacts.precision import KvDtype, Plan, Scheme
from kernels.gpu.launch import Problem
from optimizer.cost.gpu_steps import LabelledProblem, StepShapes
from optimizer.cost.provider import OF_KV_CACHE
from optimizer.measure.workload import Workload

#: prompts are computed in chunks of so many tokens when costs are modelled
PREFILL_TOKENS = 2048


class ModelledCost:
    """A `CostProvider`: `shapes` lays out a plan over a KV cache, `time_us` says how long a call takes at its best point.

    `kv_dtype` is the cache where none is named.
    """

    def __init__(
        self,
        shapes: Callable[[Plan, KvDtype], StepShapes],
        time_us: Callable[[Problem], float],
        architecture: Architecture,
        baseline: Plan,
        workload: Workload,
        kv_dtype: KvDtype,
    ) -> None:
        self._shapes, self._time_us, self._baseline, self._workload = shapes, time_us, baseline, workload
        self._kv_dtype = kv_dtype
        self._linear_shapes = architecture.linear_shapes()
        self._group_ms: dict[tuple[str, str], float] = {}

    def latency_ms(self, plan: Plan, kv_dtype: KvDtype | None = None) -> float:
        return self._weighted(*self._steps(plan, kv_dtype))

    def kv_ms(self, kv_dtype: KvDtype) -> float:
        steps = self._steps(self._baseline, kv_dtype)
        return self._weighted(*([call for call in calls if kind_of(call.label) in OF_KV_CACHE] for calls in steps))

    def group_ms(self, group: str, scheme: Scheme) -> float:
        # Layer groups of a kind have one shape, except those of dense layers in a model with experts.
        key = (f"{kind_of(group)} {self._linear_shapes[group]}", scheme.name)
        if key not in self._group_ms:
            steps = self._steps({**self._baseline, group: scheme})
            self._group_ms[key] = self._weighted(*([call for call in calls if call.label == group] for calls in steps))
        return self._group_ms[key]

    def _steps(self, plan: Plan, kv_dtype: KvDtype | None = None) -> tuple[list[LabelledProblem], list[LabelledProblem]]:
        shapes = self._shapes(plan, kv_dtype or self._kv_dtype)
        return shapes.decode(self._workload.concurrency), shapes.prefill(min(self._workload.prompt_tokens, PREFILL_TOKENS))

    def _weighted(self, decode: Iterable[LabelledProblem], prefill: Iterable[LabelledProblem]) -> float:
        """A prompt is so many chunks long; its cost is spread over the tokens that follow it."""
        chunks = self._workload.prompt_tokens / min(self._workload.prompt_tokens, PREFILL_TOKENS)
        decode_us = sum(self._time_us(call.problem) for call in decode)
        prefill_us = sum(self._time_us(call.problem) for call in prefill)
        return (decode_us + chunks * prefill_us / self._workload.output_tokens) / 1000
