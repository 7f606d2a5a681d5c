"""A run for shapes alone: no accuracy and no search over layers, but kernels, KV blocks and limits as for a real model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version

from artifacts.canonical import canonical_json
from artifacts.layer_groups import kind_of
from artifacts.manifest import Deployment, Manifest, Precision, Provenance
from artifacts.precision import Plan, Scheme, plan_bytes
from artifacts.writer import write_bundle
from optimizer.measure.paired_speed import PairedSpeed
from optimizer.report import Headline, ReportData, StepLatency, render_report
from optimizer.stages.job import Job
from optimizer.stages.kernels import CostStage, KernelStage
from optimizer.stages.limits import LimitStage
from optimizer.stages.memory import fitting


@dataclass(frozen=True)
class Candidate:
    """One scheme for every layer group that can take it, the unquantized one for the others."""

    scheme: str
    latency_ms: float
    weight_bytes: float


def plan_for_shapes(job: Job) -> Manifest:
    """Costs every uniform plan on the target, takes the fastest (or the smallest), tunes and freezes its kernels.

    The bundle lies at the specification's output.
    """
    spec, target, say = job.spec, job.target, job.reporter.say
    say(f"{spec.name}: shapes of {job.source.architecture.family}, {target.title}, study {job.study_name}")
    for name in sorted(spec.search.model_fields_set & {"trials", "timeout_s", "workers"}):
        say(f"search.{name.removesuffix('_s')} changes nothing: nothing is searched by layer in a plan only for shapes")
    untuned = target.workbench(job.original)
    plans = fitting(job, untuned, uniform_plans(job))
    kernels = KernelStage(job, untuned).run()
    bench, workload = kernels.workbench, kernels.workload
    cost = CostStage(job, kernels, [bench.kv_dtype]).run()
    shapes = job.source.architecture.linear_shapes()
    candidates = [Candidate(name, cost.latency_ms(plan), plan_bytes(plan, shapes)) for name, plan in plans.items()]
    for candidate in sorted(candidates, key=lambda c: c.latency_ms):
        say(f"  {candidate.scheme}: {candidate.latency_ms:.3f} ms a token, {candidate.weight_bytes / 1e9:.2f} GB (modelled)")
    chosen = _choose(job, candidates)
    plan = plans[chosen.scheme]
    serving, surface = LimitStage(target, job.space.serving, job.reporter, bench, plan, workload, spec.workload.itl_ms).run()
    decode = target.compare("decode", job.unquantized(bench), (bench, plan), workload)
    frozen = target.freeze(bench, plan, serving)
    deployment = Deployment(
        name=spec.name,
        architecture=job.source.architecture,
        target=frozen.target,
        precision=Precision(groups={group: scheme.name for group, scheme in plan.items()}, kv_cache=bench.kv_dtype),
        kernels=frozen.kernels,
        serving=serving,
        provenance=Provenance(
            sources=job.sources,
            tool_version=version("coldforge"),
            libraries={name: version(name) for name in ("numpy", "torch", *frozen.libraries)},
            seed=spec.seed,
            study=job.study_name,
        ),
        evaluated="emulated",
        purpose="planning",
    )
    steps = [StepLatency(step.num_tokens, step.context, step.ms) for step in surface]
    report = _report(job, chosen, plan, decode, steps, serving.model_dump())
    planned = {"candidates": [asdict(candidate) for candidate in candidates], "workload": asdict(workload)}
    files = {"search/planning.json": canonical_json(planned), "report.html": report.encode(), **frozen.files}
    manifest = write_bundle(spec.output, deployment, {}, files)
    say(f"chosen: {chosen.scheme}; this bundle is for planning and cannot be served: {spec.output}")
    return manifest


def uniform_plans(job: Job) -> dict[str, Plan]:
    """Scheme -> the plan that has it wherever it can be."""
    return {scheme.name: _uniform(job, scheme) for scheme in _candidates(job)}


def _candidates(job: Job) -> list[Scheme]:
    """What may be planned: of accuracy no more is known than that nothing is as accurate as the unquantized model."""
    return [job.baseline_scheme] if job.spec.search.choice == "most_accurate" else job.schemes


def _uniform(job: Job, scheme: Scheme) -> Plan:
    """One scheme for every layer group that can take it, the unquantized one for the others."""
    return {group: scheme if scheme in job.offered[kind_of(group)] else old for group, old in job.baseline.items()}


def _choose(job: Job, candidates: list[Candidate]) -> Candidate:
    """The smallest where that is asked for, otherwise the fastest."""
    return min(candidates, key=lambda c: c.weight_bytes if job.spec.search.choice == "smallest" else c.latency_ms)


def _report(
    job: Job,
    chosen: Candidate,
    plan: Plan,
    decode: PairedSpeed,
    steps: list[StepLatency],
    serving: Mapping[str, str | int | float],
) -> str:
    return render_report(
        ReportData(
            name=f"{job.spec.name} (planning)",
            target=f"{job.spec.target} ({job.target.title})",
            model="shapes alone, random weights",
            headline=Headline(
                speedup=decode.speedup,
                baseline_ms=decode.baseline_ms,
                chosen_ms=decode.candidate_ms,
                size_bytes=round(chosen.weight_bytes),
                baseline_size_bytes=round(plan_bytes(job.baseline, job.source.architecture.linear_shapes())),
                measured=decode.measured,
            ),
            accuracy=(),
            plan={group: scheme.name for group, scheme in plan.items()},
            step_latencies=steps,
            serving=serving,
            provenance={"study": job.study_name, "coldforge": version("coldforge")},
        )
    )
