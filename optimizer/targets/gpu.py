"""GPUs as a target, present or not: accuracy is emulated, times are modelled, kernels are cross-compiled.

The first device decides what is searched for; for the others the winner is tuned and compiled as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from artifacts.architecture import Architecture
from artifacts.canonical import canonical_json
from artifacts.errors import UserError
from artifacts.layer_groups import kind_of
from artifacts.manifest import Kernels, Limits, Platform
from artifacts.precision import KvDtype, Plan, Scheme, plan_bytes
from kernels.compile.cross_compile import Compiled, CrossCompiler, compiler_versions, gpu_sources_digest
from kernels.gpu import target as gpu_target
from kernels.gpu.cuda import CudaDriver
from kernels.gpu.frozen import FrozenKernel, FrozenKernels
from kernels.gpu.kernel_source import kernel_sources
from kernels.gpu.launch import Problem
from kernels.gpu.oracle import values
from kernels.gpu.points import PointTable, dump_tables
from kernels.gpu.refusals import NoDriver
from kernels.gpu.self_test import Check
from kernels.gpu.self_test import write as write_self_test
from kernels.gpu.target import ARCHS
from kernels.gpu.tensors import problem as problem_of
from kernels.registry import gpu_tuning, plan_call, spec
from optimizer.cost.gpu.expected_product import expected_us
from optimizer.cost.gpu.facts import gpu_facts
from optimizer.cost.gpu_steps import LabelledProblem, StepShapes
from optimizer.cost.modelled import PREFILL_TOKENS, ModelledCost
from optimizer.cost.provider import OF_KV_CACHE, CostProvider
from optimizer.evaluation import Estimate
from optimizer.measure.paired_speed import PairedSpeed
from optimizer.measure.workbench import Workbench
from optimizer.measure.workload import Workload
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.targets.emulated import EmulatedWorkbench
from optimizer.targets.target import Act, Evaluated, Frozen, Phase
from optimizer.tuning.gpu.time_model import LAUNCH_US
from optimizer.tuning.gpu.tuner import GpuTuner
from optimizer.tuning.limits import StepTime
from optimizer.tuning.winner import Tuned
from optimizer.weights.quantized_store import QuantizedStore
from runtime.gpu.pool import KV_DTYPES
from search_spaces.schema import Device, SearchSpace
from search_spaces.space import device

POINTS = "kernels/points.json"
#: of the device's memory, for weights and KV cache together; the rest is for graphs, activations and the driver
_MEMORY_SHARE = 0.9


def gpu_fingerprint(devices: Sequence[str]) -> dict[str, str]:
    """What modelled times hold for, by name: figures of the devices, kernels' sources, the compilers, the driver here."""
    return {
        **{f"device {name}": device(name).model_dump_json() for name in devices},
        "kernel_sources": gpu_sources_digest(),
        "compiler": compiler_versions() or "none",
        "driver": _driver_here(),
    }


def _driver_here() -> str:
    try:
        found = CudaDriver().device
    except NoDriver:
        return "none"
    return f"{found.name}, {'.'.join(map(str, found.driver))}"


class GpuTarget:
    """`TargetStages` of one or more GPUs. `folder` keeps what is frozen; activations lie in `act` between kernels."""

    def __init__(
        self, devices: Sequence[str], space: SearchSpace, folder: Path, ledger: Ledger, reporter: Reporter, act: Act
    ) -> None:
        self.act = act
        self._devices = [device(name) for name in devices]
        self._gpu = gpu_facts(self._devices[0])
        self._space, self._folder, self._ledger, self._reporter = space, folder, ledger, reporter
        self._compiler = CrossCompiler()
        self._context_tokens = 1024
        self._tuners: dict[str, GpuTuner] = {}

    @property
    def title(self) -> str:
        return ", ".join(arch_of(found) for found in self._devices)

    @property
    def evaluated(self) -> Evaluated:
        return "emulated"

    def expect(self, workload: Workload) -> None:
        """Times of decoding are from now on those at the mean context of `workload`. To be called before any is asked for."""
        self._context_tokens = workload.prompt_tokens + workload.output_tokens // 2

    def time_us(self, problem: Problem) -> float:
        """Of one call on the first device: products by what others have measured, everything else as its points are ranked."""
        product_us = expected_us(problem, self._gpu)
        return self._tuner(self._devices[0]).time_us(problem) if product_us is None else product_us + LAUNCH_US

    def kv_dtypes(self, architecture: Architecture) -> tuple[KvDtype, ...]:
        possible = self.possible_kv_dtypes(architecture)
        left = tuple(dtype for dtype in self._space.precision.kv_cache if dtype in possible)
        if not left:
            raise UserError(
                f"no KV cache of {', '.join(self._space.precision.kv_cache)} has kernels for this model on {self.title}; "
                "offer bf16"
            )
        return left

    def possible_kv_dtypes(self, architecture: Architecture) -> tuple[KvDtype, ...]:
        if architecture.mla:
            return ("bf16",)
        has_fp8 = all(ARCHS[arch_of(found)].has_fp8 for found in self._devices)
        return tuple(dtype for dtype in KV_DTYPES if dtype != "fp8" or has_fp8)

    def baseline(self, is_bf16: bool) -> Scheme:
        return Scheme("bf16")

    def workbench(self, store: QuantizedStore) -> EmulatedWorkbench:
        kv_dtype = self.kv_dtypes(store.architecture)[0]
        return EmulatedWorkbench(store.architecture, store, kv_dtype, self._space.serving.kv_block_size[0], self.act)

    def tune(
        self, workbench: Workbench, workload: Workload, offered: Mapping[str, Sequence[Scheme]], baseline: Scheme
    ) -> tuple[Workbench, tuple[Tuned, ...]]:
        """The KV block size, together with attention's points. Other points wait for the plan that is frozen."""
        self.expect(workload)
        plan = dict.fromkeys(workbench.architecture.linear_shapes(), baseline)

        def attention(block_size: int) -> list[Problem]:
            shapes = self._shapes(replace(workbench, kv_block_size=block_size), plan, workload)
            calls = [*shapes.decode(workload.concurrency), *shapes.prefill(min(workload.prompt_tokens, PREFILL_TOKENS))]
            return [call.problem for call in calls if kind_of(call.label) in OF_KV_CACHE]

        sizes = self._space.serving.kv_block_size
        chosen, times_us = self._tuner(self._devices[0]).tune_kv_block_size(attention, sizes)
        candidates = tuple({"kv_block_size": size} for size in sizes)
        ms = tuple(times_us[size] / 1000 for size in sizes)
        return replace(workbench, kv_block_size=chosen), (Tuned("kv_block_size", candidates, ms, {"kv_block_size": chosen}),)

    def costs(
        self,
        workbench: Workbench,
        schemes: Sequence[Scheme],
        baseline: Scheme,
        workload: Workload,
        kv_dtypes: Sequence[KvDtype],
    ) -> CostProvider:
        architecture = workbench.architecture

        def shapes(plan: Plan, kv_dtype: KvDtype) -> StepShapes:
            return self._shapes(replace(workbench, kv_dtype=kv_dtype), plan, workload)

        plan = dict.fromkeys(architecture.linear_shapes(), baseline)
        return ModelledCost(shapes, self.time_us, architecture, plan, workload, workbench.kv_dtype)

    def step(self, workbench: Workbench, plan: Plan, workload: Workload, size: int, *, decodes: bool) -> StepTime:
        context = workload.prompt_tokens + workload.output_tokens // 2 if decodes else size
        limits = replace(workload, concurrency=max(size, workload.concurrency)) if decodes else workload
        shapes = self._shapes(workbench, plan, limits, num_tokens=size)
        ms = self._total_ms(shapes.decode(size) if decodes else shapes.prefill(size))
        return StepTime(num_seqs=size if decodes else 1, num_tokens=size, context=context, ms=ms)

    def cache_bytes(self, workbench: Workbench, plan: Plan) -> int:
        return int(self.room_bytes - plan_bytes(plan, workbench.architecture.linear_shapes()))

    @property
    def room_bytes(self) -> int:
        """What weights, KV cache and buffers may take of a device's memory."""
        return int(min(found.memory_gb.value for found in self._devices if found.memory_gb) * 1e9 * _MEMORY_SHARE)

    def num_threads(self, workbench: Workbench) -> int:
        return 1

    def compare(
        self, phase: Phase, baseline: tuple[Workbench, Plan], candidate: tuple[Workbench, Plan], workload: Workload
    ) -> PairedSpeed:
        (original, unquantized), (workbench, plan) = baseline, candidate
        alone, decodes = replace(workload, concurrency=1), phase == "decode"
        size = 1 if decodes else min(workload.prompt_tokens, PREFILL_TOKENS)
        before = self.step(original.exact(), unquantized, alone, size, decodes=decodes).ms
        after = self.step(workbench, plan, alone, size, decodes=decodes).ms
        return PairedSpeed(before, after, Estimate(before / after, before / after, before / after), measured=False)

    def freeze(self, workbench: Workbench, plan: Plan, serving: Limits) -> Frozen:
        """Tunes and compiles every kernel that serving `plan` can ask for, on every device."""
        shapes = StepShapes(workbench.architecture, plan, workbench.kv_dtype, serving, self.act)
        served = list(shapes.served())
        files: dict[str, bytes | Path] = {}
        tables: dict[str, PointTable] = {}
        decided: list[Tuned] = []
        with self._compiler:
            for found in self._devices:
                arch = arch_of(found)
                tuned = self._tuner(found).tune(served)
                target = target_of(found)
                tables[arch] = PointTable(target.num_sms, {key: call.point for key, call in tuned.items()})
                folder = self._folder / arch
                checks = self._checks(served, target)
                self._frozen(served, tables[arch], checks, target).write(folder)
                write_self_test([check.record() for check in checks], folder)
                files |= {f"kernels/{arch}/{path.name}": path for path in sorted(folder.iterdir())}
                files[f"search/kernels-{arch}.json"] = canonical_json({key: call.to_json() for key, call in tuned.items()})
                decided += [
                    Tuned(f"{arch} {key}", (dict(call.point),), (call.time_us / 1000,), dict(call.point))
                    for key, call in tuned.items()
                ]
        files[POINTS] = dump_tables(tables)
        kernels = Kernels(
            symbols=tuple(sorted({problem.symbol for problem in served})),
            backend="gpu",
            table=POINTS,
            compiler=f"triton {version('triton')}",
            activations=self.act,
        )
        names = ", ".join(found.name for found in self._devices)
        frozen_for = Platform(device=names, isa=self.title, archs=tuple(arch_of(found) for found in self._devices))
        return Frozen(frozen_for, (kernels,), files, kernels.compiler, ("triton",), tuple(decided))

    def _checks(self, served: Sequence[Problem], target: gpu_target.Target) -> list[Check]:
        """A small call of every entry point that is served, at its default point: the self-test at load."""
        checks = []
        for symbol in dict.fromkeys(problem.symbol for problem in served):
            contract = spec(symbol).typed(self.act)
            case = contract.cases[0]
            made = contract.make_inputs(np.random.default_rng(0), case)
            call = problem_of(contract, values(contract, made))
            checks.append(Check(symbol, self.act, case, gpu_tuning(contract.op).default(call, target)))
        return checks

    def _frozen(
        self, served: Sequence[Problem], table: PointTable, checks: Sequence[Check], target: gpu_target.Target
    ) -> FrozenKernels:
        arch = target.arch.name
        planned = [(call, plan_call(call, target, table.point(call))) for call in served]
        planned += [check.plan(target) for check in checks]
        sources = {source.identity: source for call, plan in planned for source in kernel_sources(plan, call, arch)}
        with self._reporter.task(f"compiling kernels for {arch}", len(sources)) as advance:
            compiled = self._compiler.compile(sources.values(), advance)
        frozen = []
        for kernel in compiled.values():
            if not isinstance(kernel, Compiled):
                raise kernel
            frozen.append(FrozenKernel(kernel.source, kernel.metadata, kernel.image))
        return FrozenKernels(arch, frozen)

    def _tuner(self, found: Device) -> GpuTuner:
        if found.name not in self._tuners:
            self._tuners[found.name] = GpuTuner(
                found, target_of(found), self._space.kernels, self._compiler, self._ledger, self._reporter,
                context_tokens=self._context_tokens,
            )  # fmt: skip
        return self._tuners[found.name]

    def _shapes(self, workbench: Workbench, plan: Plan, workload: Workload, num_tokens: int = 0) -> StepShapes:
        """A step with just the room that the workload, or so many tokens, need."""
        block_size, tokens = workbench.kv_block_size, workload.prompt_tokens + workload.output_tokens
        limits = Limits(
            kv_block_size=block_size,
            num_kv_blocks=workload.concurrency * -(-max(tokens, num_tokens) // block_size),
            max_num_seqs=workload.concurrency,
            max_num_batched_tokens=max(min(workload.prompt_tokens, PREFILL_TOKENS), workload.concurrency, num_tokens),
            max_model_len=tokens,
            num_threads=1,
        )
        return StepShapes(workbench.architecture, plan, workbench.kv_dtype, limits, self.act)

    def _total_ms(self, calls: Sequence[LabelledProblem]) -> float:
        return sum(self.time_us(call.problem) for call in calls) / 1000


def arch_of(found: Device) -> str:
    """The architecture of a device that bundles can be built for."""
    assert found.arch is not None, "a buildable GPU states its architecture"
    return found.arch


def target_of(found: Device) -> gpu_target.Target:
    """What planners must know of a device."""
    assert found.num_sms is not None, "a buildable GPU states its number of SMs"
    return gpu_target.Target.of(arch_of(found), int(found.num_sms.value))
