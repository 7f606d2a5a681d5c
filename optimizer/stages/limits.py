"""Stage: how many sequences and tokens a step may hold when the chosen plan is served."""

from __future__ import annotations

from dataclasses import dataclass

from artifacts.manifest import Limits
from artifacts.precision import Plan
from optimizer.measure.workbench import Workbench
from optimizer.measure.workload import Workload
from optimizer.records.progress import Reporter
from optimizer.targets import TargetStages
from optimizer.tuning.limits import StepTime, tune_limits
from search_spaces.schema import ServingSpace


@dataclass(frozen=True)
class LimitStage:
    """Reads limits off steps of `plan` on `target`; `itl_ms` is the most that a step may take."""

    target: TargetStages
    space: ServingSpace
    reporter: Reporter
    workbench: Workbench
    plan: Plan
    workload: Workload
    itl_ms: float | None

    def run(self) -> tuple[Limits, list[StepTime]]:
        """The limits, and the steps."""
        bench, sizes = self.workbench, len(self.space.max_num_seqs) + len(self.space.max_num_batched_tokens)
        verb = "measuring" if self.target.evaluated == "served" else "modelling"
        with self.reporter.task(f"{verb} steps of the chosen plan", sizes) as advance:

            def step(size: int, decodes: bool) -> StepTime:
                found = self.target.step(bench, self.plan, self.workload, size, decodes=decodes)
                advance()
                return found

            return tune_limits(
                self.space,
                bench.architecture,
                self.workload,
                self.itl_ms,
                kv_dtype=bench.kv_dtype,
                kv_block_size=bench.kv_block_size,
                cache_bytes=self.target.cache_bytes(bench, self.plan),
                num_threads=self.target.num_threads(bench),
                measure=step,
            )
