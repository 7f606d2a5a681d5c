"""`optimize`: a model.yaml and its overrides in, a bundle on disk out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from artifacts.errors import UserError
from kernels.cpu.host import host
from kernels.reference import limit_threads
from optimizer.bundle.admission import admit
from optimizer.bundle.emit import emit
from optimizer.bundle.forged import Forged
from optimizer.records.progress import Reporter
from optimizer.run.forge import forge
from optimizer.run.freed_memory import keep_freed_memory
from optimizer.run.planning import plan_for_shapes
from optimizer.run.workspace import held, workspace_of
from optimizer.spec import ModelSpec, SearchSpec, known_devices, load_spec
from optimizer.stages.job import Job
from optimizer.stages.sharing import holding
from search_spaces.located_yaml import rule_of
from search_spaces.space import buildable_names, device


@dataclass(frozen=True)
class Overrides:
    """What the command line says over model.yaml; None leaves it."""

    target: str | None = None
    output: Path | None = None
    trials: int | None = None
    timeout: str | None = None
    storage: str | None = None
    workers: int | None = None


def run_optimize(spec_path: Path, overrides: Overrides, reporter: Reporter | None = None) -> Path:
    """Make the bundle and return its folder. Raises NothingPasses and UserError, WorkspaceHeld among them."""
    reporter = reporter or Reporter()
    keep_freed_memory()
    spec = apply(load_spec(spec_path), overrides)
    if unknown := [name for name in spec.devices if not device(name).buildable]:
        raise UserError(f"bundles cannot be built for {unknown[0]!r} yet; --gpu can be {', '.join(buildable_names())}")
    if spec.is_planning and spec.devices == ("cpu",):
        raise UserError("source: random plans for a GPU: a CPU is measured with the real model; set target, or give --gpu")
    limit_threads(host().num_cores)
    workspace = workspace_of(spec.output)
    with held(workspace), holding(Job.open(spec, workspace, reporter)) as job:
        _make(job)
    return spec.output


def _make(job: Job) -> None:
    """The bundle of `job`, on disk, or a plan for several devices."""
    if job.spec.num_devices > 1:
        # Only GPUs are planned for, and only they need Triton.
        from optimizer.run.several_devices import plan_for_several

        plan_for_several(job)
        return
    if job.spec.is_planning:
        plan_for_shapes(job)
        return
    forged = forge(job)
    job.reporter.say("writing the bundle")
    emit(forged, job.spec.output, partial(admit, forged=forged, ledger=job.ledger, reporter=job.reporter))
    _conclude(forged, job.reporter)


def apply(spec: ModelSpec, overrides: Overrides) -> ModelSpec:
    """`spec` as the command line changes it. UserError names the option at fault."""
    changes: dict[str, object] = {}
    if overrides.target is not None:
        changes["target"] = known_devices(overrides.target)
    if overrides.output is not None:
        changes["output"] = overrides.output.absolute()
    search = _search_options(overrides)
    if spec.is_planning and (idle := {"trials", "timeout_s", "workers"} & search.keys()):
        option = "--" + min(idle).removesuffix("_s")
        raise UserError(f"source: random plans only for shapes: nothing is searched by layer; leave out {option}")
    return spec.model_copy(update={**changes, "search": spec.search.model_copy(update=search)})


def _search_options(overrides: Overrides) -> dict[str, object]:
    """The fields of `search` that the command line gives, by the same rules as in model.yaml."""
    options = {"trials": overrides.trials, "timeout": overrides.timeout, "storage": overrides.storage}
    options["workers"] = overrides.workers
    try:
        search = SearchSpec.model_validate({name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        fault = error.errors()[0]
        got = "" if fault["type"] == "value_error" else f", got {options[str(fault['loc'][0])]!r}"
        raise UserError(f"--{fault['loc'][0]} {rule_of(fault)}{got}") from error
    return search.model_dump(exclude_unset=True)


def _conclude(forged: Forged, reporter: Reporter) -> None:
    speed, proven, num_trials = forged.decode_speed, forged.proven, len(forged.searched.trials)
    how = f"({speed.speedup.low:.2f} to {speed.speedup.high:.2f})" if speed.measured else "(modelled, not measured)"
    reporter.say(
        f"trial {proven.trial.number} of {num_trials}: decode {speed.speedup.value:.2f} x the unquantized model {how}, "
        f"{speed.baseline_ms:.3g} -> {speed.candidate_ms:.3g} ms a token"
    )
    for name, text in proven.texts.items():
        kl, top1 = text.evaluation.kl, text.evaluation.top1_agreement
        reporter.say(
            f"{name}: KL {kl.value:.4f} nats ({kl.low:.4f} to {kl.high:.4f}), same first choice {top1.value:.1%}, on "
            f"{len(text.scores)} sequences"
        )
    for name, comparison in proven.comparisons.items():
        reporter.say(f"{name}: {comparison.verdict.checks[0]}")
    reporter.say(f"bundle: {forged.job.spec.output}\nreport: {forged.job.spec.output / 'report.html'}")
