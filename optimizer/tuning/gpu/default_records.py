"""Static records of ops' kernels at their default points, on calls that stand for those of real models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernels.compile.cross_compile import CrossCompiler, KernelCompileFailed
from kernels.compile.static_record import StaticRecord
from kernels.gpu.kernel_source import KernelSource, kernel_sources
from kernels.gpu.target import Target
from kernels.refusal import Refusal
from kernels.registry import plan_call
from optimizer.cost.gpu.facts import gpu_facts
from optimizer.records.progress import Reporter
from optimizer.tuning.gpu.compiled import CompiledKernels
from optimizer.tuning.gpu.representative import representatives
from search_spaces.schema import Device


@dataclass(frozen=True)
class DefaultRecords:
    """By `symbol, call, function`: records of kernels; and by `symbol, call` why there are none."""

    records: Mapping[str, StaticRecord]
    refused: Mapping[str, str]


def default_records(
    symbols: Sequence[str], device: Device, tokens: Sequence[int], compiler: CrossCompiler, reporter: Reporter
) -> DefaultRecords:
    """Compile every distinct kernel of the calls; calls that share it are under the name of the first."""
    gpu = gpu_facts(device)
    target = Target.of(gpu.arch, gpu.num_sms)
    names: dict[str, str] = {}
    sources: dict[str, KernelSource] = {}
    refused: dict[str, str] = {}
    for symbol in symbols:
        for call in representatives(symbol, tokens):
            try:
                plan = plan_call(call.problem, target)
            except Refusal as error:
                refused[f"{symbol}, {call.name}"] = str(error)
                continue
            for source in kernel_sources(plan, call.problem, gpu.arch):
                sources.setdefault(source.identity, source)
                names.setdefault(source.identity, f"{symbol}, {call.name}, {source.function}")
    records = CompiledKernels(compiler, reporter).records(list(sources.values()))
    found = {names[identity]: record for identity, record in records.items()}
    refused |= {name: str(record) for name, record in found.items() if isinstance(record, KernelCompileFailed)}
    return DefaultRecords({n: r for n, r in found.items() if isinstance(r, StaticRecord)}, refused)
