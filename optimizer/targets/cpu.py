"""This machine's CPU as a target: kernels are compiled here, and everything is measured on them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from platform import machine
from typing import Any

from artifacts.architecture import Architecture
from artifacts.errors import UserError
from artifacts.manifest import Kernels, Limits, Platform
from artifacts.precision import KvDtype, Plan, Scheme
from kernels.cpu import kv_cache
from kernels.cpu.build import NoCompiler, build, num_units, resolve_constants
from kernels.cpu.host import host
from kernels.cpu.isa import Isa, best_isa
from kernels.cpu.library import Library
from kernels.formats.table import cpu_products
from optimizer.cost.measured import measure_costs
from optimizer.cost.provider import CostProvider
from optimizer.evaluation import Estimate
from optimizer.measure.machine import this_machine
from optimizer.measure.paired_speed import NUM_PAIRS, PairedSpeed, measure_pair
from optimizer.measure.timing import interleaved_ms, typical_ms
from optimizer.measure.workbench import CpuWorkbench, Workbench
from optimizer.measure.workload import Workload, decode_spans, prefill_spans
from optimizer.records.ledger import Ledger
from optimizer.records.plan_digest import plan_digest
from optimizer.records.progress import Reporter
from optimizer.records.record_key import record_key
from optimizer.targets.target import Evaluated, Frozen, Phase
from optimizer.tuning.kernels import KernelTuner, legal_candidates, tuning_plans
from optimizer.tuning.limits import StepTime
from optimizer.tuning.winner import Constants, Tuned
from optimizer.weights.quantized_store import QuantizedStore
from runtime.batch import build_batch
from runtime.decoder import kv_dtypes
from search_spaces.schema import SearchSpace, ThreadShare

#: of the machine's memory, for the KV cache
CACHE_SHARE = 0.25
#: samples of each size of a step of the chosen plan
_STEP_ROUNDS = 3
LIBRARY_NAME = "kernels/cpu.so"


class CpuTarget:
    """`TargetStages` of the host. `folder` keeps the libraries that were built, for `isa` or the best that the host has."""

    def __init__(
        self, device: str, space: SearchSpace, folder: Path, ledger: Ledger, reporter: Reporter, isa: Isa | None = None
    ) -> None:
        _check_offered(space)
        self._device, self._space, self._folder = device, space, folder
        self._ledger, self._reporter = ledger, reporter
        self._isa = isa or best_isa(host())
        self._machine = this_machine(self._isa)

    @property
    def title(self) -> str:
        return self._isa.name

    @property
    def evaluated(self) -> Evaluated:
        return "served"

    def kv_dtypes(self, architecture: Architecture) -> tuple[KvDtype, ...]:
        possible, offered = self.possible_kv_dtypes(architecture), self._space.precision.kv_cache
        left = tuple(dtype for dtype in offered if dtype in possible)
        if not left:
            raise UserError(
                f"CPU kernels keep this {architecture.family} model's KV cache in {', '.join(possible)}, and the search space "
                f"offers {', '.join(offered)}; offer one of the former in precision.kv_cache"
            )
        return left

    def possible_kv_dtypes(self, architecture: Architecture) -> tuple[KvDtype, ...]:
        return kv_dtypes(architecture)

    def baseline(self, is_bf16: bool) -> Scheme:
        return Scheme("bf16" if is_bf16 else "fp32")

    def workbench(self, store: QuantizedStore) -> CpuWorkbench:
        serving = self._space.serving
        kv_dtype, block_size = self.kv_dtypes(store.architecture)[0], serving.kv_block_size[0]
        bench = CpuWorkbench(store.architecture, store, kv_dtype, block_size, None, host().num_cores, machine=self._machine)
        return self._with_library(bench, self._first_constants())

    def tune(
        self, workbench: Workbench, workload: Workload, offered: Mapping[str, Sequence[Scheme]], baseline: Scheme
    ) -> tuple[Workbench, tuple[Tuned, ...]]:
        """Ops are tuned one after the other, each on the winners before it; then the KV block size.

        Numbers of threads are measured before, between and after these, so that no one moment decides about them.
        """
        bench = _own(workbench)
        if bench.library is None:
            return bench, ()
        shapes = bench.architecture.linear_shapes()
        every = dict.fromkeys([baseline, *(scheme for schemes in offered.values() for scheme in schemes)])
        fitting = {group: [scheme for scheme in every if scheme.refusal(*shape) is None] for group, shape in shapes.items()}
        with self._reporter.task("weights in every scheme", len(fitting)) as advance:
            bench.store.prepare(fitting, advance)
        plans = tuning_plans(offered, shapes, baseline)
        tuner = KernelTuner(self._ledger, self._reporter, bench, self._isa, self._space.kernels, plans, workload, self._folder)
        threads = _thread_counts(self._space.serving.threads)
        tuner.add_thread_moment(bench, threads)
        constants: Constants = {}
        tuned: list[Tuned] = []
        for op in self._space.kernels:
            tuned.append(tuner.tune_op(op))
            constants |= tuned[-1].chosen
            tuner.add_thread_moment(bench, threads)
        bench = self._with_library(bench, constants)
        tuned.append(tuner.tune_block_size(bench, self._space.serving.kv_block_size))
        bench = replace(bench, kv_block_size=tuned[-1].chosen["kv_block_size"])
        tuner.add_thread_moment(bench, threads)
        tuned.append(tuner.tune_num_threads(threads))
        return replace(bench, num_threads=tuned[-1].chosen["num_threads"]), tuple(tuned)

    def costs(
        self,
        workbench: Workbench,
        schemes: Sequence[Scheme],
        baseline: Scheme,
        workload: Workload,
        kv_dtypes: Sequence[KvDtype],
    ) -> CostProvider:
        return measure_costs(self._ledger, self._reporter, _own(workbench), schemes, baseline, workload, kv_dtypes)

    def step(self, workbench: Workbench, plan: Plan, workload: Workload, size: int, *, decodes: bool) -> StepTime:
        def measure() -> dict[str, Any]:
            block_size = workbench.kv_block_size
            spans = decode_spans(workload, size, block_size) if decodes else prefill_spans(size, block_size)
            runner = _own(workbench).runner(plan, size, sum(len(s.block_table) for s in spans) * block_size, len(spans))
            runner.fill(build_batch(spans, block_size))
            ms = typical_ms(interleaved_ms({0: runner.executable.run}, rounds=_STEP_ROUNDS)[0])
            context = spans[0].start + len(spans[0].token_ids)
            return asdict(StepTime(num_seqs=len(spans), num_tokens=size, context=context, ms=ms))

        name = f"step/{'decode' if decodes else 'prefill'}/{size}"
        key = record_key(name, timing=_own(workbench).timing, plan=plan_digest(plan), workload=workload)
        return StepTime(**self._ledger.once(key, measure))

    def cache_bytes(self, workbench: Workbench, plan: Plan) -> int:
        key = record_key("host/memory_bytes", machine=self._machine)
        memory_bytes = self._ledger.once(key, lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        return int(memory_bytes * CACHE_SHARE)

    def num_threads(self, workbench: Workbench) -> int:
        return _own(workbench).num_threads

    def compare(
        self, phase: Phase, baseline: tuple[Workbench, Plan], candidate: tuple[Workbench, Plan], workload: Workload
    ) -> PairedSpeed:
        (original, unquantized), (workbench, plan) = baseline, candidate
        num_tokens = workload.prompt_tokens if phase == "prefill" else None

        pair = (_own(original).exact(), unquantized), (_own(workbench), plan)

        def measure() -> dict[str, object]:
            with self._reporter.task(f"{phase} against the unquantized model, pairs", NUM_PAIRS) as advance:
                return asdict(measure_pair(*pair, workload, num_tokens, advance))

        both = [(bench.timing, plan_digest(own)) for bench, own in pair]
        record: dict[str, Any] = self._ledger.once(record_key(f"speed/{phase}", pair=both, workload=workload), measure)
        return PairedSpeed(**{**record, "speedup": Estimate(**record["speedup"])})

    def freeze(self, workbench: Workbench, plan: Plan, serving: Limits) -> Frozen:
        bench = _own(workbench)
        library = bench.library
        kernels = Kernels(
            symbols=tuple(sorted(bench.symbols(plan))),
            backend="cpu" if library else "reference",
            library=LIBRARY_NAME if library else None,
            constants=dict(bench.constants),
            compiler=self._machine.compiler if library else None,
        )
        target = Platform(
            device=self._device,
            machine=machine() if library else None,
            isa=self.title if library else "portable",
            cpu_flags=library.cpu_flags if library else (),
        )
        return Frozen(target, (kernels,), {LIBRARY_NAME: self._library_path} if library else {}, kernels.compiler)

    def _first_constants(self) -> Constants:
        """Each op's first candidate: where it wins, what was compiled for the stages before is what is frozen."""
        first: Constants = {}
        for op, space in self._space.kernels.items():
            first |= legal_candidates(op, space, self._isa)[0]
        return first

    @property
    def _library_path(self) -> Path:
        """The shared library that was built last: the tuned one, once `tune` is through."""
        return self._folder / "cpu.so"

    def _with_library(self, bench: CpuWorkbench, constants: Constants) -> CpuWorkbench:
        """`bench` on kernels that are compiled with `constants`; without a compiler it stays on the references."""
        try:
            with self._reporter.task("compiling kernels", num_units()) as advance:
                library = Library(build(constants, self._library_path, self._isa, on_compiled=advance))
        except NoCompiler as error:
            self._reporter.say(f"{error}. Continuing with the portable references, which are slow and need torch to serve.")
            return bench
        return replace(bench, library=library, constants=resolve_constants(constants, self._isa))


def _thread_counts(shares: Sequence[ThreadShare]) -> list[int]:
    """In order of preference, each once."""
    cores = host().num_cores
    return list(dict.fromkeys(cores if share == "all" else max(1, cores // 2) for share in shares))


def _check_offered(space: SearchSpace) -> None:
    """UserError for a scheme or a KV dtype that there are no CPU kernels for."""
    groups, products = space.precision.groups, cpu_products()
    names = {scheme.name for kind in type(groups).model_fields for scheme in groups.of(kind) if scheme.variant not in products}
    names |= set(space.precision.kv_cache) - set(kv_cache.STORAGE)
    if names:
        raise UserError(f"there are no CPU kernels for {', '.join(sorted(names))}; remove it from the search space")


def _own(workbench: Workbench) -> CpuWorkbench:
    assert isinstance(workbench, CpuWorkbench)
    return workbench
