"""Steps of one plan on alternatives that are compared: they share its weights and, where they can, buffers and KV cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from artifacts.precision import Plan
from optimizer.cost.measured import PREFILL_TOKENS
from optimizer.measure.timing import interleaved_ms, typical_ms
from optimizer.measure.workbench import CpuWorkbench
from optimizer.measure.workload import Workload, decode_spans, prefill_spans
from runtime.batch import Span, build_batch
from runtime.model_runner import ProgramRunner

Phase = Literal["decode", "prefill"]
#: samples of each phase in a pass; a step of a prompt is long, and the least part of a workload's time per token
_ROUNDS: dict[Phase, int] = {"decode": 3, "prefill": 1}
_TWIN = -1


@dataclass(frozen=True)
class Alternative:
    """What may run a step: a workbench, and which of its library's variants of ops, op -> index."""

    bench: CpuWorkbench
    variants: Mapping[str, int] = field(default_factory=dict)


class PlanSteps:
    """A decode step of `workload`, and a step of its prompt, under `plan` on each of `alternatives`."""

    def __init__(self, plan: Plan, alternatives: Sequence[Alternative], workload: Workload) -> None:
        self._plan, self._alternatives, self._workload = plan, alternatives, workload
        self._num_prompt_tokens = min(workload.prompt_tokens, PREFILL_TOKENS)
        self._samples: defaultdict[tuple[Phase, int], list[float]] = defaultdict(list)
        #: KV block size -> a runner whose buffers all alternatives of that size work in
        self._runners: dict[int, ProgramRunner] = {}
        self._run: dict[int, Callable[[], object]] = {}
        self._warm = set[tuple[Phase, int]]()

    def measure(self, phase: Phase, indices: Sequence[int]) -> tuple[float, float]:
        """More samples of the alternatives at `indices`, of the first twice as many: milliseconds of each half."""
        for index in indices:
            self._prepare(index)
        for size, runner in self._runners.items():
            runner.fill(build_batch(self._spans(phase, size), size))
            if (phase, size) not in self._warm:  # the first step pays for page faults
                runner.executable.run()
                self._warm.add((phase, size))
        actions = {index: self._run[index] for index in indices} | {_TWIN: self._run[indices[0]]}
        found = interleaved_ms(actions, rounds=_ROUNDS[phase], warm=False)
        for index in indices:
            self._samples[phase, index] += found[index]
        return typical_ms(found[indices[0]]), typical_ms(found[_TWIN])

    def release(self) -> None:
        """Let go of buffers and mapped weights until more is measured: a plan has a file open for each of its layer groups."""
        self._runners.clear()
        self._run.clear()
        self._warm.clear()

    def ms(self, phase: Phase, index: int) -> float:
        """Typical milliseconds of the alternative at `index`, of all samples so far."""
        return typical_ms(self._samples[phase, index])

    def prompt_ms(self, step_ms: float) -> float:
        """What the step of a prompt adds to each output token."""
        return step_ms * self._workload.prompt_tokens / self._num_prompt_tokens / self._workload.output_tokens

    def _prepare(self, index: int) -> None:
        if index in self._run:
            return
        bench = self._alternatives[index].bench
        size = bench.kv_block_size
        if size not in self._runners:
            every = [self._spans("decode", size), self._spans("prefill", size)]
            num_tokens = max(sum(len(span.token_ids) for span in spans) for spans in every)
            num_kv_tokens = max(sum(len(span.block_table) for span in spans) for spans in every) * size
            self._runners[size] = bench.runner(self._plan, num_tokens, num_kv_tokens, max(map(len, every)))
        step = self._runners[size].step
        alike = [i for i, other in enumerate(self._alternatives) if other.bench is bench]
        assert bench.library is not None
        choices = [self._alternatives[i].variants for i in alike]
        for i, compiled in zip(alike, bench.library.compile_each(step.program, bench.num_threads, choices), strict=True):
            self._run[i] = compiled.run

    def _spans(self, phase: Phase, block_size: int) -> list[Span]:
        if phase == "decode":
            return decode_spans(self._workload, self._workload.concurrency, block_size)
        return prefill_spans(self._num_prompt_tokens, block_size)
