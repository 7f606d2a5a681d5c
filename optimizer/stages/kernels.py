"""Stages: the workload, kernels tuned for it, and what steps then cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from artifacts.precision import KvDtype
from optimizer.cost.provider import CostProvider
from optimizer.measure.workbench import Workbench
from optimizer.measure.workload import Workload, resolve_workload
from optimizer.stages.job import Job
from optimizer.tuning.winner import Tuned


@dataclass(frozen=True)
class TunedKernels:
    """`workbench` has kernels that were tuned for `workload`; `tuned` is what was compared."""

    workload: Workload
    workbench: Workbench
    tuned: tuple[Tuned, ...]


@dataclass(frozen=True)
class KernelStage:
    """Tunes the kernels of `workbench`. What a weight is changes no time, so no record here depends on how it was rounded."""

    job: Job
    workbench: Workbench

    def run(self) -> TunedKernels:
        job, workload = self.job, self._workload()
        job.reporter.say(
            f"workload: {workload.prompt_tokens} tokens in, {workload.output_tokens} out, {workload.concurrency} at once"
        )
        workbench, tuned = job.target.tune(self.workbench, workload, job.offered, job.baseline_scheme)
        return TunedKernels(workload, workbench, tuned)

    def _workload(self) -> Workload:
        """What model.yaml says, within what the model and the search space allow."""
        (original, baseline), target = self.job.unquantized(self.workbench), self.job.target

        def request_seconds(prompt_tokens: int, output_tokens: int) -> float:
            """Of the unquantized model: an arrival rate becomes a concurrency by it."""
            alone = Workload(min(prompt_tokens, 256), output_tokens, 1)
            decode = target.step(original, baseline, alone, 1, decodes=True)
            prefill = target.step(original, baseline, alone, alone.prompt_tokens, decodes=False)
            return (prefill.ms * prompt_tokens / alone.prompt_tokens + decode.ms * output_tokens) / 1000

        workload, max_position = resolve_workload(self.job.spec.workload, request_seconds), original.architecture.max_position
        return Workload(
            prompt_tokens=min(workload.prompt_tokens, max_position - min(workload.output_tokens, max_position // 2)),
            output_tokens=min(workload.output_tokens, max_position - 1),
            concurrency=min(workload.concurrency, max(self.job.space.serving.max_num_seqs)),
        )


@dataclass(frozen=True)
class CostStage:
    """What steps cost on `kernels` under any plan of the schemes on offer, over any of `kv_dtypes`."""

    job: Job
    kernels: TunedKernels
    kv_dtypes: Sequence[KvDtype]

    def run(self) -> CostProvider:
        job, kernels = self.job, self.kernels
        return job.target.costs(kernels.workbench, job.schemes, job.baseline_scheme, kernels.workload, self.kv_dtypes)
