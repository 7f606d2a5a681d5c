"""Stage: trials of precision plans, each measured against the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from artifacts.layer_groups import kind_of
from artifacts.precision import KvDtype, Plan, Scheme
from optimizer.cost.provider import CostProvider
from optimizer.evaluation import Gate, Look
from optimizer.records.record_key import record_key
from optimizer.search.accuracy import Judge, score_plan
from optimizer.search.bands import Band, make_bands, plan_of
from optimizer.search.knapsack import Knapsack, Shares, total
from optimizer.search.kv_cache import USUAL_KL, KvLoss, lossless_enough
from optimizer.search.precision import PrecisionSearch, Trial, TrialScore
from optimizer.search.proof import NothingPasses
from optimizer.search.refusal import explain
from optimizer.search.sensitivity import Probes, Sensitivities, predict_kl
from optimizer.search.shared import SharedSearch
from optimizer.search.warm_start import KV_CACHE, Assignment, kv_dtype_of, uniform_choices
from optimizer.stages.job import Job
from optimizer.stages.memory import lacking_bytes
from optimizer.stages.sharing import sharing


@dataclass(frozen=True)
class Searched:
    """Every finished trial, one of them at least worth proving, and the bands that their choices are about."""

    bands: tuple[Band, ...]
    trials: list[Trial]
    study: str
    """What the trials are kept under."""


@dataclass(frozen=True)
class SearchStage:
    """Searches over bands and KV caches; `judge` scores on the text of the search, `cost` says how long a plan takes.

    `proof` is the last look at each text there: what a trial must be likely to pass.
    """

    job: Job
    judge: Judge
    proof: Mapping[str, Look]
    sensitivities: Sensitivities
    kv_losses: Mapping[KvDtype, KvLoss]
    cost: CostProvider

    def run(self) -> Searched:
        """NothingPasses where the text of the search excludes every trial."""
        job, judge, limits = self.job, self.judge, self.job.spec.search
        gate, bands = Gate(**job.spec.gate.model_dump()), self._bands()

        def refused(plan: Plan, kv_dtype: KvDtype) -> TrialScore | None:
            if (lacking := lacking_bytes(job, judge.on(kv_dtype).workbench, plan)) <= 0:
                return None
            return TrialScore.refused(f"{lacking / 2**30:.1f} GiB more memory is needed than {job.target.title} has")

        def score(plan: Plan, kv_dtype: KvDtype) -> TrialScore:
            return refused(plan, kv_dtype) or score_plan(judge.on(kv_dtype), plan, gate, self.proof)

        latency = self._latency(bands)
        kv_dtypes, study = list(self.kv_losses), self._study(bands, latency, gate)
        problem = job.ledger, bands, self.cost.latency_ms, score, job.spec.seed, kv_dtypes, study
        search = PrecisionSearch(*problem)
        warm_starts = self._warm_starts(bands, latency)
        if earlier := job.earlier:
            if earlier.study == study:
                search.adopt(earlier.trials)
            warm_starts = [*earlier.warm_starts(bands, kv_dtypes), *warm_starts]
        if limits.workers and len(search.trials()) < limits.trials:
            with sharing(job, judge, bands, study) as crew:
                shared = SharedSearch(crew, refused, *problem)
                trials = shared.run(warm_starts, limits.trials, limits.timeout_s, job.reporter)
        else:
            trials = search.run(warm_starts, limits.trials, limits.timeout_s, job.reporter)
        if not trials:
            raise NothingPasses("no trial was finished; give the search more time")
        if all(trial.is_hopeless for trial in trials):
            best = min(trials, key=lambda trial: trial.violation)
            if best.failure:
                raise NothingPasses(f"none of {len(trials)} trials has a score; trial {best.number}: {best.failure}")
            clauses = explain(gate, judge.on(kv_dtype_of(best.choice)), plan_of(bands, best.choice))
            raise NothingPasses(
                f"none of {len(trials)} trials is within the gate; trial {best.number} came closest, with KL {best.kl:.4g}, "
                f"and misses a limit by {best.violation:.0%} of it: {'; '.join(clauses)}"
            )
        return Searched(bands, trials, study)

    def _bands(self) -> tuple[Band, ...]:
        coarsest = {group: measured[self._probes(group).weights.name] for group, measured in self.sensitivities.items()}
        return make_bands(self.job.base.architecture, coarsest, self.job.offered)

    def _latency(self, bands: tuple[Band, ...]) -> Shares:
        """What each choice adds to the latency of a plan, in ms."""
        latency: dict[str, Mapping[str, float]] = {
            band.name: {s.name: sum(self.cost.group_ms(group, s) for group in band.groups) for s in band.choices}
            for band in bands
        }
        latency[KV_CACHE] = {str(dtype): self.cost.kv_ms(dtype) for dtype in self.kv_losses}
        return latency

    def _study(self, bands: tuple[Band, ...], latency: Shares, gate: Gate) -> str:
        """What trials are kept under: all that their latency, KL and violation follow from, and what suggests the next."""
        first = plan_of(bands, {band.name: band.choices[0].name for band in bands})
        return record_key(
            "precision",
            bands=[(band.name, band.groups) for band in bands],
            latency=latency,
            latency_of_first=self.cost.latency_ms(first),
            gate=asdict(gate),
            proof={name: asdict(look) for name, look in self.proof.items()},
            seed=self.job.spec.seed,
            lacking_bytes=max(0, lacking_bytes(self.job, self.judge.workbench, self.job.lossless)),
            **self.judge.depends_beside_plan({scheme for band in bands for scheme in band.choices}),
        )

    def _warm_starts(self, bands: tuple[Band, ...], latency: Shares) -> list[Assignment]:
        """Uniform plans and those of least predicted KL within a latency, likely ones first: from the middle of the gate."""
        allowed_kl, reporter = self.job.spec.gate.max_kl or USUAL_KL, self.job.reporter
        # Each group is quantized in each scheme here, unless it was before.
        kl: dict[str, Mapping[str, float]] = {
            band.name: {s.name: sum(self._predicted_kl(group, s) for group in band.groups) for s in band.choices}
            for band in reporter.track(bands, "quantization errors of layer groups", len(bands))
        }
        kl[KV_CACHE] = {dtype: loss.kl for dtype, loss in self.kv_losses.items()}
        kv_ms = {dtype: latency[KV_CACHE][dtype] for dtype in self.kv_losses}
        uniform_on = {KV_CACHE: lossless_enough(self.kv_losses, kv_ms, allowed_kl)}
        predicted = {}
        for choice in [*(plan | uniform_on for plan in uniform_choices(bands)), *Knapsack(kl, latency).choices()]:
            predicted[tuple(choice.items())] = abs(total(kl, choice) / allowed_kl - 0.5)
        return [dict(items) for items in sorted(predicted, key=lambda items: predicted[items])]

    def _predicted_kl(self, group: str, scheme: Scheme) -> float:
        store = self.judge.workbench.store
        return predict_kl(self.sensitivities[group], scheme, lambda s: store.relative_error(group, s), self._probes(group))

    def _probes(self, group: str) -> Probes:
        return Probes.among(self.job.offered[kind_of(group)])
