"""A run for shapes alone: no accuracy and no search over layers, but kernels, KV blocks and limits as for a real model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from artifacts.architecture import kind_of
from artifacts.canonical import canonical_json
from artifacts.manifest import Deployment, Manifest, Precision, Provenance
from artifacts.precision import Plan, Scheme
from artifacts.writer import write_bundle
from optimizer.importers import open_random
from optimizer.measure.paired_speed import PairedSpeed
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.report import Headline, ReportData, StepLatency, render_report
from optimizer.run.study_name import study_name
from optimizer.search.bands import fitting_schemes
from optimizer.spec import ModelSpec
from optimizer.targets import fitted_workload, offered_schemes, open_target, target_layout
from optimizer.weights.quantized_store import QuantizedStore
from search_spaces.space import load_space


@dataclass(frozen=True)
class Candidate:
    """One scheme for every layer group that can take it, the unquantized one for the others."""

    scheme: str
    latency_ms: float
    weight_bytes: float


class Planning:
    """Costs every uniform plan on the target, takes the fastest (or the smallest), tunes and freezes its kernels."""

    def __init__(self, spec: ModelSpec, workspace: Path, reporter: Reporter) -> None:
        assert spec.config is not None
        self._spec, self._reporter = spec, reporter
        self._space = load_space(spec.search.space, "gpu")
        self._source = open_random(spec.config)
        self._sources = self._source.sha256()
        self._shapes = self._source.architecture.linear_shapes()
        kinds = dict.fromkeys(map(kind_of, self._shapes))
        self._offered = fitting_schemes(
            self._shapes, offered_schemes(self._space, spec.devices, kinds, self._source.architecture)
        )
        self._study_name = study_name(spec, self._sources, self._space)
        folder = workspace / self._study_name
        self._ledger = Ledger(spec.search.storage or f"sqlite:///{workspace}/study.db", self._study_name, reporter.say)
        self._target = open_target(spec.devices, self._space, folder / "kernels", self._ledger, reporter)
        self._store = QuantizedStore(self._source, folder / "weights", target_layout(spec.devices))

    def run(self) -> Manifest:
        """Every stage, and the bundle at the specification's output."""
        spec, say, target = self._spec, self._reporter.say, self._target
        say(f"{spec.name}: shapes of {self._source.architecture.family}, {target.title}, study {self._study_name}")
        for name in sorted(spec.search.model_fields_set & {"trials", "timeout_s"}):
            say(f"search.{name.removesuffix('_s')} changes nothing: nothing is searched by layer in a plan for shapes alone")
        baseline_scheme = target.baseline(True)
        baseline: Plan = dict.fromkeys(self._shapes, baseline_scheme)
        bench = target.workbench(self._store)
        most = max(self._space.serving.max_num_seqs)
        workload = fitted_workload(spec.workload, target, bench, baseline, self._ledger, most)
        say(f"workload: {workload.prompt_tokens} tokens in, {workload.output_tokens} out, {workload.concurrency} at once")
        bench, _ = target.tune(bench, workload, self._offered, baseline_scheme)
        schemes = dict.fromkeys([baseline_scheme, *(s for offered in self._offered.values() for s in offered)])
        cost = target.costs(bench, list(schemes), baseline_scheme, workload, [bench.kv_dtype])
        plans = {scheme.name: self._uniform(scheme, baseline_scheme) for scheme in schemes}
        candidates = [Candidate(name, cost.latency_ms(plan), self._weight_bytes(plan)) for name, plan in plans.items()]
        for candidate in sorted(candidates, key=lambda c: c.latency_ms):
            say(
                f"  {candidate.scheme}: {candidate.latency_ms:.3f} ms a token, {candidate.weight_bytes / 1e9:.2f} GB (modelled)"
            )
        chosen = self._choose(candidates, baseline_scheme)
        plan = plans[chosen.scheme]
        serving, surface = target.serving(bench, plan, workload, spec.workload.itl_ms)
        decode = target.compare("decode", (bench, baseline), (bench, plan), workload)
        frozen = target.freeze(bench, plan, serving)
        deployment = Deployment(
            name=spec.name,
            architecture=self._source.architecture,
            target=frozen.target,
            precision=Precision(groups={group: scheme.name for group, scheme in plan.items()}, kv_cache=bench.kv_dtype),
            kernels=frozen.kernels,
            serving=serving,
            provenance=Provenance(
                sources=self._sources,
                tool_version=version("coldforge"),
                libraries={name: version(name) for name in ("numpy", "torch", *frozen.libraries)},
                seed=spec.seed,
                study=self._study_name,
            ),
            evaluated="emulated",
            purpose="planning",
        )
        steps = [StepLatency(step.num_tokens, step.context, step.ms) for step in surface]
        report = self._report(chosen, baseline, plan, decode, steps, serving.model_dump())
        planned = {"candidates": [asdict(candidate) for candidate in candidates], "workload": asdict(workload)}
        files = {"search/planning.json": canonical_json(planned), "report.html": report.encode(), **frozen.files}
        manifest = write_bundle(spec.output, deployment, {}, files)
        say(f"chosen: {chosen.scheme}; this bundle is for planning and cannot be served: {spec.output}")
        return manifest

    def _uniform(self, scheme: Scheme, baseline: Scheme) -> Plan:
        return {group: scheme if scheme in self._offered[kind_of(group)] else baseline for group in self._shapes}

    def _weight_bytes(self, plan: Plan) -> float:
        return sum(n * k * plan[group].bits_per_weight / 8 for group, (n, k) in self._shapes.items())

    def _choose(self, candidates: list[Candidate], baseline: Scheme) -> Candidate:
        rule = self._spec.search.choice
        if rule == "most_accurate":
            return next(candidate for candidate in candidates if candidate.scheme == baseline.name)
        return min(candidates, key=lambda c: c.weight_bytes if rule == "smallest" else c.latency_ms)

    def _report(
        self,
        chosen: Candidate,
        baseline: Plan,
        plan: Plan,
        decode: PairedSpeed,
        steps: list[StepLatency],
        serving: Mapping[str, str | int | float],
    ) -> str:
        return render_report(
            ReportData(
                name=f"{self._spec.name} (planning)",
                target=f"{self._spec.target} ({self._target.title})",
                model="shapes alone, random weights",
                headline=Headline(
                    speedup=decode.speedup,
                    baseline_ms=decode.baseline_ms,
                    chosen_ms=decode.candidate_ms,
                    size_bytes=round(chosen.weight_bytes),
                    baseline_size_bytes=round(self._weight_bytes(baseline)),
                    measured=decode.measured,
                ),
                accuracy=(),
                plan={group: scheme.name for group, scheme in plan.items()},
                step_latencies=steps,
                serving=serving,
                provenance={"study": self._study_name, "coldforge": version("coldforge")},
            )
        )
