"""Runs any precision plan of the model at hand, through the kernels that will serve it."""

from __future__ import annotations

from dataclasses import dataclass

from artifacts.architecture import Architecture
from artifacts.manifest import Serving
from artifacts.precision import KvDtype, Plan
from kernels.cpu.library import Library
from kernels.reference import ReferenceProgram
from optimizer.evaluation import Score
from optimizer.quantized_store import QuantizedStore
from runtime.decoder import StepProgram, lay_out
from runtime.model_runner import Executable, ProgramRunner
from runtime.scoring import score

SCORING_CHUNK_TOKENS = 256


@dataclass(frozen=True)
class Workbench:
    """The model, its quantized weights, and the library under test; None stands for the portable references."""

    architecture: Architecture
    store: QuantizedStore
    library: Library | None
    num_threads: int
    kv_dtype: KvDtype
    kv_block_size: int

    def step_program(self, plan: Plan, max_num_tokens: int, num_kv_tokens: int, max_num_seqs: int = 1) -> StepProgram:
        """The step program of `plan` with just the room that a measurement needs."""
        num_blocks = -(-num_kv_tokens // self.kv_block_size) + max_num_seqs
        limits = Serving(
            kv_block_size=self.kv_block_size,
            num_kv_blocks=num_blocks,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_tokens,
            max_model_len=min(num_kv_tokens, self.architecture.max_position),
            num_threads=self.num_threads,
        )
        return lay_out(self.architecture, plan, self.kv_dtype, self.store.plan_tensors(plan), limits)

    def symbols(self, plan: Plan) -> frozenset[str]:
        """Every entry point that a step of `plan` calls."""
        return frozenset(call.symbol for call in self.step_program(plan, 1, self.kv_block_size).program.calls)

    def runner(self, plan: Plan, max_num_tokens: int, num_kv_tokens: int, max_num_seqs: int = 1) -> ProgramRunner:
        """A runner of `plan` over a cache of its own."""
        step = self.step_program(plan, max_num_tokens, num_kv_tokens, max_num_seqs)
        return ProgramRunner(step, self.executable(step))

    def executable(self, step: StepProgram) -> Executable:
        if self.library is None:
            return ReferenceProgram(step.program)
        return self.library.compile(step.program, self.num_threads)

    def score(self, plan: Plan, max_tokens: int) -> Score:
        """token ids -> logits under `plan`, for texts of at most `max_tokens`."""
        runner = self.runner(plan, min(max_tokens, SCORING_CHUNK_TOKENS), max_tokens)
        return lambda token_ids: score(runner, token_ids)
