"""Stages: what KV caches and layer groups lose alone, beside the unquantized model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from artifacts.precision import KvDtype, Plan
from optimizer.measure.workbench import Workbench
from optimizer.search.accuracy import Judge
from optimizer.search.kv_cache import KvLoss, measure_kv_losses, no_cache_passes, worth_searching
from optimizer.search.proof import NothingPasses
from optimizer.search.sensitivity import Sensitivities, measure_sensitivities
from optimizer.search.texts import Tokens
from optimizer.stages.job import Job


def judge_on(
    job: Job,
    workbench: Workbench,
    sets: Mapping[str, Sequence[Tokens]],
    own: frozenset[str] = frozenset(),
    *,
    keeps_logits: bool = True,
) -> Judge:
    """Of plans on `workbench`, against the checkpoint's own weights on the same kernels. `own` is as in `Judge`."""
    # Its logits depend on no plan, so studies share them.
    folder, model = job.folder.parent / "baseline" if keeps_logits else None, repr(sorted(job.sources.items()))
    judge = Judge.make(*job.unquantized(workbench), sets, folder, model, job.spec.seed, job.reporter, own)
    return replace(judge, workbench=workbench, baseline=job.lossless)


@dataclass(frozen=True)
class KvCacheStage:
    """Which KV caches stay in the search, and what they cost there, in the order of the space."""

    job: Job
    judge: Judge

    def run(self) -> Mapping[KvDtype, KvLoss]:
        """NothingPasses if none can stay."""
        job, max_kl = self.job, self.job.spec.gate.max_kl
        offered = job.target.kv_dtypes(job.base.architecture)
        for dtype in job.space.precision.kv_cache:
            if dtype not in offered:
                job.reporter.say(f"KV cache: {dtype} is left out of the search: it has no kernels for this model")
        measure = partial(measure_kv_losses, job.ledger, job.reporter, self.judge)
        losses = measure(offered)
        kept = worth_searching(losses, max_kl)
        if not kept:
            possible = job.target.possible_kv_dtypes(job.base.architecture)
            others = measure([dtype for dtype in possible if dtype not in offered])
            raise NothingPasses(no_cache_passes(losses, others, max_kl))
        for dtype, loss in losses.items():
            if dtype not in kept:
                job.reporter.say(f"KV cache: {dtype} is left out of the search: {loss}")
        return kept


@dataclass(frozen=True)
class SensitivityStage:
    """What each layer group loses alone, over a KV cache that loses nothing: none carries the damage of another."""

    job: Job
    judge: Judge

    def run(self) -> Sensitivities:
        job, exact = self.job, replace(self.judge, workbench=self.judge.workbench.exact())

        def depends_on(change: Plan) -> dict[str, object]:
            return exact.depends_on({**exact.baseline, **change})

        shapes = exact.workbench.architecture.linear_shapes()
        return measure_sensitivities(job.ledger, job.reporter, job.offered, shapes, exact.probe_kl, depends_on)
