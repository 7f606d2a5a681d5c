"""Shipped configurations: default points on calls of real models, compiled for sm_90 and read from machine code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kernels import registry
from kernels.compile.cross_compile import CrossCompiler
from kernels.compile.static_record import KernelBinary, StaticRecord, static_records
from kernels.gpu.kernel_source import KernelSource, kernel_sources
from kernels.gpu.launch import Launch, Problem
from kernels.gpu.target import Target
from kernels.moe_matmul.gpu_tuning import default_block_m
from kernels.moe_route.launch import max_blocks
from optimizer.tuning.gpu.representative import call_of, representatives
from tests.kernels.gpu.compiling import compile_all

#: An H100 SXM.
TARGET = Target.of("sm_90", 132)
CLOCK_GHZ, BANDWIDTH = 1.755, 3350e9

#: One decoding sequence, and a batch of them; a chunk of a prompt, and a long prompt.
DECODE, PREFILL = (1, 16), (512, 2048)

#: (experts, experts of a token, hidden, width of an expert), as their configurations state them.
_MOE = {"mixtral-8x7b": (8, 2, 4096, 14336), "qwen3-30b-a3b": (128, 8, 2048, 768)}
#: those that are published in mxfp4
_MXFP4_MOE = {"gpt-oss-20b": (32, 4, 2880, 2880)}

#: What every step multiplies by or attends over; the rest is elementwise, without a loop that streams.
_MATMULS = ("scaled_matmul", "quant_matmul", "paged_attention", "mla_attention", "head_matmul", "moe_matmul", "moe_route")


@dataclass(frozen=True)
class Configuration:
    """A launch of an entry point in a model on `tokens` tokens."""

    symbol: str
    name: str
    tokens: int
    launch: Launch
    source: KernelSource

    def __str__(self) -> str:
        return f"{self.symbol}, {self.name}, {self.launch.function}"


def every() -> list[Configuration]:
    """All that are checked: a few hundred kernels."""
    return list(_configurations(tuple(registry.specs("gpu")), DECODE + PREFILL))


def largest() -> list[Configuration]:
    """Those with most at stake: matmuls and attention of the models of billions, one sequence's step and a long prompt's."""
    symbols = [symbol for symbol, spec in registry.specs("gpu").items() if spec.op in _MATMULS]
    found = _configurations(symbols, (DECODE[0], PREFILL[-1]))
    left_out = ("smollm2", "llama-3.1-8b o", "llama-3.1-8b down")
    return [one for one in found if not one.name.startswith(left_out)]


def _configurations(symbols: Sequence[str], tokens: Sequence[int]) -> Iterator[Configuration]:
    """One of every distinct kernel."""
    seen: set[str] = set()
    for symbol in symbols:
        for count in tokens:
            for name, problem in _calls(symbol, count):
                plan = registry.plan_call(problem, TARGET)
                sources = kernel_sources(plan, problem, TARGET.arch.name)
                for launch, source in zip(plan.launches, sources, strict=True):
                    if source.identity not in seen:
                        seen.add(source.identity)
                        yield Configuration(symbol, name, count, launch, source)


def _calls(symbol: str, tokens: int) -> Iterator[tuple[str, Problem]]:
    yield from ((call.name, call.problem) for call in representatives(symbol, (tokens,)))
    if symbol.startswith("gpu_moe_matmul_"):
        models = _MOE | (_MXFP4_MOE if symbol.endswith("mxfp4") else {})
        for model, (experts, top_k, hidden, width) in models.items():
            block_m = default_block_m(tokens * top_k, experts)
            num_blocks = max_blocks(tokens * top_k, experts, block_m)
            routed = {"T": tokens, "E": experts, "top_k": top_k, "block_m": block_m, "num_blocks": num_blocks}
            for part, rows, n, k in (("gate_up", 1, 2 * width, hidden), ("down", top_k, hidden, width)):
                yield f"{model} {part} x{tokens}", call_of(symbol, {**routed, "J": rows, "N": n, "K": k, "groups": k // 64}, {})


def read(compiler: CrossCompiler, configurations: Sequence[Configuration]) -> list[StaticRecord]:
    """What the machine code of each says."""
    kernels = compile_all(compiler, [one.source for one in configurations])
    metadata = [kernel.metadata for kernel in kernels]
    return static_records(
        [
            KernelBinary(kernel.image, TARGET.arch.name, of.num_warps, of.shared_bytes)
            for kernel, of in zip(kernels, metadata, strict=True)
        ]
    )


def issue_bound(record: StaticRecord, launch: Launch) -> float | None:
    """How fast instructions alone let the hot loop stream, over what memory delivers; None where nothing streams in a loop."""
    if not launch.streamed_bytes or record.hot_loop is None:
        return None
    bound = record.issue_bound(clock_ghz=CLOCK_GHZ, num_sms=TARGET.num_sms, bytes_per_iteration=launch.streamed_bytes)
    return bound / BANDWIDTH
