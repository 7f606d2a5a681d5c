"""Stages: the workload, kernels tuned for it, and what steps then cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from artifacts.precision import KvDtype
from optimizer.cost.provider import CostProvider
from optimizer.measure.workbench import Workbench
from optimizer.measure.workload import Workload
from optimizer.stages.job import Job
from optimizer.targets import fitted_workload
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
        job, (original, baseline) = self.job, self.job.unquantized(self.workbench)
        workload = fitted_workload(job.spec.workload, job.target, original, baseline, max(job.space.serving.max_num_seqs))
        job.reporter.say(
            f"workload: {workload.prompt_tokens} tokens in, {workload.output_tokens} out, {workload.concurrency} at once"
        )
        workbench, tuned = job.target.tune(self.workbench, workload, job.offered, job.baseline_scheme)
        return TunedKernels(workload, workbench, tuned)


@dataclass(frozen=True)
class CostStage:
    """What steps cost on `kernels` under any plan of the schemes on offer, over any of `kv_dtypes`."""

    job: Job
    kernels: TunedKernels
    kv_dtypes: Sequence[KvDtype]

    def run(self) -> CostProvider:
        job, baseline = self.job, self.job.baseline_scheme
        schemes = list(dict.fromkeys([baseline, *(scheme for offered in job.offered.values() for scheme in offered)]))
        return job.target.costs(self.kernels.workbench, schemes, baseline, self.kernels.workload, self.kv_dtypes)
