"""Stage: which compile-time constants and which KV block size are fastest here. Legality first, then whole steps, measured."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TypeVar

from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from artifacts.precision import Plan, Scheme
from kernels import registry
from kernels.cpu.build import build
from kernels.cpu.isa import Isa
from kernels.cpu.library import Library
from optimizer.cost.measured import PREFILL_TOKENS
from optimizer.cost.workload import Workload, decode_spans, prefill_spans
from optimizer.ledger import Ledger, completed
from optimizer.progress import Reporter
from optimizer.tuning.choice import Constants, Tuned, winner
from optimizer.tuning.timing import interleaved_ms, typical_ms
from optimizer.workbench import CpuWorkbench
from runtime.batch import build_batch
from runtime.model_runner import ProgramRunner
from search_spaces.schema import KernelSpace

C = TypeVar("C", bound=Hashable)
_PARALLEL_BUILDS = 2
_ROUNDS = 5


class KernelTuner:
    """Measures candidates on the model's own steps, so that caches, shapes and threads are those of service."""

    def __init__(
        self,
        ledger: Ledger,
        reporter: Reporter,
        workbench: CpuWorkbench,
        isa: Isa,
        plans: Sequence[Plan],
        workload: Workload,
        folder: Path,
    ) -> None:
        self._ledger, self._reporter, self._workbench = ledger, reporter, workbench
        self._isa, self._plans, self._workload, self._folder = isa, plans, workload, folder

    def tune_op(self, op: str, space: KernelSpace, fixed: Constants) -> Tuned:
        """The constants of `op`, the others' being `fixed`. ValueError if the space has no legal combination."""
        tuning = registry.tunings()[op]
        names = list(space.constants)
        combinations = (dict(zip(names, values, strict=True)) for values in product(*space.constants.values()))
        candidates = [c for c in combinations if tuning.refusal({**tuning.default(self._isa), **c}, self._isa) is None]
        if not candidates:
            raise ValueError(f"the search space of {op} has no combination that is legal on {self._isa.name}; widen {names}")

        def measure() -> list[float]:
            libraries = self._build([{**fixed, **candidate} for candidate in candidates], op)
            benches = [replace(self._workbench, library=library) for library in libraries]
            return self._measure(benches, self._plans_that_differ_in(op), f"tiles of {op}")

        return self._tuned(op, candidates, measure)

    def tune_block_size(self, sizes: Sequence[int]) -> Tuned:
        """The KV block size, in tokens."""
        benches = [replace(self._workbench, kv_block_size=size) for size in sizes]
        plans = self._plans_that_differ_in("paged_attention")
        candidates = [{"kv_block_size": size} for size in sizes]
        return self._tuned("kv_block_size", candidates, lambda: self._measure(benches, plans, "KV block size"))

    def tune_num_threads(self, counts: Sequence[int]) -> Tuned:
        """How many threads run a step."""
        benches = [replace(self._workbench, num_threads=count) for count in counts]
        candidates = [{"num_threads": count} for count in counts]
        return self._tuned("num_threads", candidates, lambda: self._measure(benches, self._plans, "number of threads"))

    def _plans_that_differ_in(self, op: str) -> list[Plan]:
        """One plan for each set of `op`'s entry points that the plans call: attention runs the same code under all of them."""
        distinct = {
            frozenset(symbol for symbol in self._workbench.symbols(plan) if registry.spec(symbol).op == op): plan
            for plan in self._plans
        }
        return list(distinct.values())

    def _build(self, constants: Sequence[Constants], op: str) -> list[Library]:
        def one(indexed: tuple[int, Constants]) -> Path:
            index, values = indexed
            return build(values, self._folder / f"{op}-{index}.so", self._isa)

        with ThreadPoolExecutor(_PARALLEL_BUILDS) as pool:
            built = pool.map(one, enumerate(constants))
            return [Library(path) for path in self._reporter.track(built, f"compiling {op}", len(constants))]

    def _measure(self, benches: Sequence[CpuWorkbench], plans: Sequence[Plan], title: str) -> list[float]:
        totals = [0.0] * len(benches)
        for plan in self._reporter.track(plans, f"measuring {title}", len(plans)):
            decode = _step_times(benches, plan, self._workload, self._workload.concurrency, decode_only=True)
            num_tokens = min(self._workload.prompt_tokens, PREFILL_TOKENS)
            prefill = _step_times(benches, plan, self._workload, num_tokens, decode_only=False)
            weight = self._workload.prompt_tokens / num_tokens / self._workload.output_tokens
            for index in range(len(benches)):
                totals[index] += decode[index] + weight * prefill[index]
        return totals

    def _tuned(self, subject: str, candidates: Sequence[Constants], measure: Callable[[], list[float]]) -> Tuned:
        """One record for all candidates, since they were measured side by side, and one Optuna study with a trial for each."""
        ms = self._ledger.once(f"kernels/{subject}", measure)
        study = self._ledger.study(f"kernels/{subject}")
        values = {name: sorted({c[name] for c in candidates}) for name in candidates[0]}
        space = {name: CategoricalDistribution(choices) for name, choices in values.items()}
        num_known = len(completed(study))  # fewer than all where a run was killed while it wrote them
        for candidate, value in zip(candidates[num_known:], ms[num_known:], strict=True):
            study.add_trial(create_trial(params=dict(candidate), distributions=dict(space), value=value))
        return Tuned(subject, tuple(candidates), tuple(ms), winner(list(candidates), ms))


def _step_times(
    benches: Sequence[CpuWorkbench], plan: Plan, workload: Workload, size: int, *, decode_only: bool
) -> list[float]:
    """Typical milliseconds of one step of `plan` on each bench: `size` decoding sequences, or a prompt of `size` tokens."""
    runners: list[ProgramRunner] = []
    for bench in benches:
        block_size = bench.kv_block_size
        spans = decode_spans(workload, size, block_size) if decode_only else prefill_spans(size, block_size)
        runner = bench.runner(plan, size, sum(len(span.block_table) for span in spans) * block_size, len(spans))
        runner.fill(build_batch(spans, block_size))
        runners.append(runner)
    samples = interleaved_ms({index: runner.executable.run for index, runner in enumerate(runners)}, rounds=_ROUNDS)
    return [typical_ms(samples[index]) for index in range(len(runners))]


def tuning_plans(
    offered: Mapping[str, Sequence[Scheme]], shapes: Mapping[str, tuple[int, int]], baseline: Scheme
) -> list[Plan]:
    """Uniform plans on which constants are measured: for each family of kernels, the first of its schemes that is offered."""
    families: dict[tuple[str, bool, bool], Scheme] = {}
    for schemes in offered.values():
        for scheme in schemes:
            families.setdefault((scheme.weights, scheme.int8_activations, scheme.int16_activations), scheme)
    quantized = [scheme for (weights, *_), scheme in families.items() if weights in ("int4", "int4-twolevel", "int8")]
    return [
        {group: scheme if scheme.refusal(*shape) is None else baseline for group, shape in shapes.items()}
        for scheme in quantized or families.values()
    ]
