"""Runs any precision plan of the model at hand, as it will be served."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from artifacts.architecture import Architecture
from artifacts.manifest import Limits
from artifacts.precision import KvDtype, Plan
from kernels.cpu.library import Library
from kernels.reference import ReferenceProgram
from kernels.spec import Array
from optimizer.evaluation import NoScore, Score
from optimizer.evaluation.metrics import Logits
from optimizer.measure.layer_states import LayerStates
from optimizer.measure.machine import Machine
from optimizer.weights.quantized_store import QuantizedStore
from runtime.buffers import resident_zeros, zeros
from runtime.decoder import StepProgram, lay_out
from runtime.model_runner import Executable, ModelRunner, ProgramRunner
from runtime.scoring import batch_together, score, score_together, split_together

SCORING_CHUNK_TOKENS = 256
#: half of what fp16 holds: text that nobody has seen yet may reach further
FP16_ROOM = 32752


class KvRangeError(NoScore):
    """Keys or values are beyond half of fp16's range, or no numbers: on other text the cache would saturate, unseen."""

    def __init__(self, largest: float) -> None:
        super().__init__(
            f"an fp16 KV cache must leave room for other text, so keys and values must be within {FP16_ROOM:,}; "
            f"got {largest:,.0f}"
        )


@dataclass(frozen=True)
class Workbench(ABC):
    """The model and its quantized weights, on the kernels under test or on an emulation of them."""

    architecture: Architecture
    store: QuantizedStore
    kv_dtype: KvDtype
    kv_block_size: int

    @property
    @abstractmethod
    def numbers(self) -> object:
        """What the numbers that it computes depend on beside weights, plan, texts and KV cache, as plain data."""

    @abstractmethod
    def exact(self) -> Self:
        """The same with a KV cache that loses nothing which the unquantized model has."""

    @abstractmethod
    def caches(self, runner: ModelRunner) -> Iterator[Array]:
        """Keys and values, or latents, of each layer, as `runner` keeps them."""

    @abstractmethod
    def runner(self, plan: Plan, max_num_tokens: int, num_kv_tokens: int, max_num_seqs: int = 1) -> ModelRunner:
        """A runner of `plan` over a cache of its own, with just the room that was asked for."""

    def with_threads(self, num_threads: int) -> Self:
        """The same on so many threads, where it has threads of its own."""
        return self

    def on(self, store: QuantizedStore) -> Self:
        """The same kernels over other weights, of which a transform may have made another architecture."""
        return replace(self, store=store, architecture=store.architecture)

    def score(self, plan: Plan, max_tokens: int) -> Score:
        """token ids -> logits under `plan`, for texts of at most `max_tokens`. KvRangeError where fp16 does not hold them."""
        runner = self.runner(plan, min(max_tokens, SCORING_CHUNK_TOKENS), max_tokens)

        def scored(token_ids: list[int]) -> Logits:
            logits = score(runner, token_ids)
            self.check_range(runner)
            return logits

        return scored

    def score_each(self, plan: Plan, texts: Sequence[list[int]]) -> Iterator[Logits]:
        """The logits of each text in turn, under `plan`; valid until the next is asked for. Short texts share steps.

        KvRangeError where fp16 does not hold their keys and values.
        """
        longest = max(map(len, texts))
        together = min(len(texts), SCORING_CHUNK_TOKENS // longest)
        if together < 2:
            yield from map(self.score(plan, longest), texts)
            return
        runner = self.runner(plan, *self._room([longest] * together))
        for start in range(0, len(texts), together):
            scored = score_together(runner, texts[start : start + together])
            self.check_range(runner)
            yield from scored

    def score_at_once(self, plan: Plan, texts: Sequence[list[int]], num_logits: int | None = None) -> list[Logits]:
        """The same of short texts, or of the last `num_logits` tokens of each, in one step."""
        runner = self.runner(plan, *self._room([len(text) for text in texts]))
        logits = score_together(runner, texts, num_logits)
        self.check_range(runner)
        return logits

    def _room(self, lengths: Sequence[int]) -> tuple[int, int, int]:
        """Tokens, tokens of the KV cache and sequences of one step over texts of `lengths`."""
        room = -(-max(lengths) // self.kv_block_size) * self.kv_block_size
        return sum(lengths), len(lengths) * room, len(lengths)

    def check_range(self, runner: ModelRunner) -> None:
        """KvRangeError if an fp16 cache of `runner` holds what may saturate on other text."""
        if self.kv_dtype != "fp16":
            return
        for cache in self.caches(runner):
            if not (most := np.abs(cache).max()) < FP16_ROOM:
                raise KvRangeError(float(most))

    def limits(self, max_num_tokens: int, num_kv_tokens: int, max_num_seqs: int, num_threads: int) -> Limits:
        """Limits that give a runner so much room."""
        return Limits(
            kv_block_size=self.kv_block_size,
            num_kv_blocks=-(-num_kv_tokens // self.kv_block_size) + max_num_seqs,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_tokens,
            max_model_len=min(num_kv_tokens, self.architecture.max_position),
            num_threads=num_threads,
        )


@dataclass(frozen=True)
class CpuWorkbench(Workbench):
    """On this machine's CPU, through a compiled library; None stands for the portable references."""

    library: Library | None
    num_threads: int
    constants: Mapping[str, int] = field(default_factory=dict)
    """Those that `library` was built with, where they are tuned."""
    machine: Machine | None = None
    """What measurements here hold for; None where nothing is recorded."""
    #: of `score_at_once`; shared by all that this is replaced with
    states: LayerStates = field(default_factory=LayerStates, repr=False, compare=False)

    def with_threads(self, num_threads: int) -> Self:
        return replace(self, num_threads=num_threads)

    @property
    def numbers(self) -> object:
        return self.machine and self.machine.numbers

    @property
    def timing(self) -> dict[str, object]:
        """What the time of a step depends on beside the plan and what is in the step: no weight's value is among it."""
        return {
            "architecture": self.architecture,
            "kv_dtype": self.kv_dtype,
            "kv_block_size": self.kv_block_size,
            "constants": dict(self.constants),
            "num_threads": self.num_threads,
            "machine": self.machine,
        }

    def exact(self) -> Self:
        return replace(self, kv_dtype="fp32")

    def caches(self, runner: ModelRunner) -> Iterator[Array]:
        assert isinstance(runner, ProgramRunner)
        for call in runner.step.program.calls:
            if call.symbol.startswith("rope_and_cache_"):
                for name in ("k_cache", "v_cache", "cache"):
                    cache = call.arguments.get(name)
                    if isinstance(cache, np.ndarray):
                        yield cache

    def step_program(
        self, plan: Plan, max_num_tokens: int, num_kv_tokens: int, max_num_seqs: int = 1, *, runs_once: bool = False
    ) -> StepProgram:
        """The step program of `plan` with just the room that a measurement needs."""
        limits = self.limits(max_num_tokens, num_kv_tokens, max_num_seqs, self.num_threads)
        cache_zeros = zeros if runs_once else resident_zeros  # to fetch pages beforehand costs more than one run gains
        return lay_out(self.architecture, plan, self.kv_dtype, self.store.plan_tensors(plan), limits, cache_zeros)

    def symbols(self, plan: Plan) -> frozenset[str]:
        """Every entry point that a step of `plan` calls."""
        return frozenset(call.symbol for call in self.step_program(plan, 1, self.kv_block_size).program.calls)

    def runner(self, plan: Plan, max_num_tokens: int, num_kv_tokens: int, max_num_seqs: int = 1) -> ProgramRunner:
        step = self.step_program(plan, max_num_tokens, num_kv_tokens, max_num_seqs)
        return ProgramRunner(step, self.executable(step))

    def score_at_once(self, plan: Plan, texts: Sequence[list[int]], num_logits: int | None = None) -> list[Logits]:
        """As for every workbench. Plans that begin like the last one over the same texts go on where they differ."""
        library = self.library
        # All of an fp16 cache is looked at, and layers that differ read more than the stream of those before.
        if library is None or self.kv_dtype == "fp16" or self.architecture.layers_differ:
            return super().score_at_once(plan, texts, num_logits)
        step = self.step_program(plan, *self._room([len(text) for text in texts]), runs_once=True)
        step.fill(batch_together(texts, self.kv_block_size, num_logits))
        subject = (tuple(map(tuple, texts)), self.store, library, self.kv_dtype, self.kv_block_size)
        self.states.run(step, plan, subject, lambda program: library.compile(program, self.num_threads))
        return split_together(step.logits, texts, num_logits)

    def executable(self, step: StepProgram) -> Executable:
        if self.library is None:
            return ReferenceProgram(step.program)
        return self.library.compile(step.program, self.num_threads)
