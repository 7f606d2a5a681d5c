"""Where a step's time goes: each kind of call against what it must move and compute, and against what the device reaches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from artifacts.errors import UserError
from kernels import registry
from kernels.spec import Cost, CpuCall
from runtime.batch import Batch, Span, build_batch
from runtime.bench.bound import Peaks
from runtime.model_runner import ProgramRunner

_MIN_RUNS = 5
_MIN_S = 1.0


@dataclass(frozen=True)
class Work:
    """All calls of one entry point for one kind of layer part, in one step.

    `bytes` and `flops` are the least that they must move and compute; `memory_ms` and `compute_ms` are what that takes at
    the peaks, `floor_ms` the larger of the two, call by call.
    """

    part: str
    symbol: str
    num_calls: int
    ms: float
    bytes: float
    flops: float
    memory_ms: float
    compute_ms: float
    floor_ms: float

    @property
    def gbps(self) -> float:
        return self.bytes / self.ms / 1e6

    @property
    def bound(self) -> Literal["memory", "compute"]:
        """Which of the two would be the last to finish at the peaks."""
        return "memory" if self.memory_ms >= self.compute_ms else "compute"

    @property
    def of_peak(self) -> float | None:
        """The part of the time that the peaks leave unavoidable: 1 is a kernel with nothing left to gain.

        None where it was faster than the peaks allow, which are then no peaks for it: a cache held part of what was read, or
        the machine was busier when they were measured.
        """
        return self.floor_ms / self.ms if self.floor_ms <= self.ms else None


@dataclass(frozen=True)
class Profile:
    """A step of `num_tokens` new tokens of one sequence that has `context_len` tokens after it; `works` by falling time."""

    phase: str
    num_tokens: int
    context_len: int
    works: tuple[Work, ...]

    @property
    def total(self) -> Work:
        """The sum; none of it can have been unavoidable for longer than it took."""
        return _sum("total", "", [replace(work, floor_ms=min(work.floor_ms, work.ms)) for work in self.works])

    def as_json(self) -> dict[str, Any]:
        """As plain JSON data; units are in the names."""
        return asdict(self) | {"total": asdict(self.total)}


def profile_decode(runner: ProgramRunner, context_len: int, peaks: Peaks) -> Profile:
    """One token at a context of `context_len` tokens, itself included. UserError if that is longer than the bundle serves."""
    return _profile("decode", runner, 1, context_len, peaks)


def profile_prefill(runner: ProgramRunner, num_tokens: int, peaks: Peaks) -> Profile:
    """A prompt's first `num_tokens` tokens, or as many of them as one step takes. UserError as `profile_decode`."""
    num_tokens = min(num_tokens, runner.limits.max_num_batched_tokens)
    return _profile("prefill", runner, num_tokens, num_tokens, peaks)


def _profile(phase: str, runner: ProgramRunner, num_tokens: int, context_len: int, peaks: Peaks) -> Profile:
    if context_len > runner.limits.max_model_len:
        raise UserError(f"the bundle serves contexts of at most {runner.limits.max_model_len} tokens, got {context_len}")
    blocks = range(-(-context_len // runner.limits.kv_block_size))
    span = Span([0] * num_tokens, context_len - num_tokens, blocks, num_logits=1)
    batch = build_batch([span], runner.limits.kv_block_size)
    runner.fill(batch)
    call_ms = _typical_ms(runner)
    program = runner.step.program
    counts = {name: int(counter[0]) for name, counter in program.counters.items()}
    works: dict[tuple[str, str], list[Work]] = {}
    for call, ms in zip(program.calls, call_ms, strict=True):
        cost = call_cost(call, counts, batch)
        memory_ms = cost.bytes / peaks.memory_gbps / 1e6
        compute_ms = cost.flops / _compute_gops(call.symbol, peaks) / 1e6
        key = (part_of(call), call.symbol)
        work = Work(*key, 1, ms, cost.bytes, cost.flops, memory_ms, compute_ms, floor_ms=max(memory_ms, compute_ms))
        works.setdefault(key, []).append(work)
    rows = sorted((_sum(*key, same) for key, same in works.items()), key=lambda work: -work.ms)
    return Profile(phase, num_tokens, context_len, tuple(rows))


def _compute_gops(symbol: str, peaks: Peaks) -> float:
    """The peak of the arithmetic that an entry point does: of bytes, of bf16, or floating point."""
    op = registry.spec(symbol).op
    if op == "paged_attention" and symbol.endswith("_bf16"):
        return peaks.bf16_gflops
    is_integer = op == "quant_matmul" and symbol.endswith(("_a8", "_a16"))
    return peaks.int8_gops if is_integer else peaks.float_gflops


def _typical_ms(runner: ProgramRunner) -> list[float]:
    """The median time of each call, over at least a second of runs."""
    runner.executable.profile_ms()
    runs: list[NDArray[np.float64]] = []
    started_s = time.perf_counter()
    while len(runs) < _MIN_RUNS or time.perf_counter() - started_s < _MIN_S:
        runs.append(runner.executable.profile_ms())
    return [float(ms) for ms in np.median(runs, axis=0)]


def part_of(call: CpuCall) -> str:
    """The kind of layer part that a call computes: `qkv` of every layer is one, and so is every norm."""
    op = registry.spec(call.symbol).op
    if op in ("rms_norm", "embedding"):
        return {"rms_norm": "norm", "embedding": "embed"}[op]
    if call.label in ("gather_rows", "embed"):  # a tied head multiplies with the embedding
        return "head"
    return call.label.rpartition(".")[2]


def call_cost(call: CpuCall, counts: dict[str, int], batch: Batch) -> Cost:
    """What `call` must move and compute when its counters are `counts` and the step is `batch`."""
    spec = registry.spec(call.symbol)
    sizes = spec.sizes(call.arguments) | {axis: counts[counter] for axis, counter in call.counters.items()}
    if spec.op == "rms_norm":
        return spec.cost(sizes | {"residual": int(call.arguments.get("residual") is not None)})
    if spec.op == "quant_matmul" and "groups" in sizes:
        return spec.cost(sizes | {"G": sizes["K"] // sizes["groups"]})
    if spec.op != "paged_attention":
        return spec.cost(sizes)
    # The cache is read once per sequence, as far as any of its tokens sees; each token computes over what it sees itself.
    window = call.arguments.get("window", 0)  # latents have none
    assert isinstance(window, int)
    window = window or int(batch.seq_lens.max())
    read = np.minimum(batch.seq_lens, np.diff(batch.cu_seqlens_q) + window - 1)
    seen = np.minimum(batch.positions + 1, window)
    return Cost(
        spec.cost(sizes | {"S": 1, "context": int(read.sum())}).bytes,
        spec.cost(sizes | {"T": 1, "context": int(seen.sum())}).flops,
    )


def _sum(part: str, symbol: str, works: Sequence[Work]) -> Work:
    quantities = ("num_calls", "ms", "bytes", "flops", "memory_ms", "compute_ms", "floor_ms")
    return Work(part, symbol, *(sum(getattr(work, name) for work in works) for name in quantities))
