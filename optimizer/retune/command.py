"""`coldforge retune`: the folder that a night works in, its result and summary, and the name that moves or stays."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from artifacts.canonical import canonical_json
from artifacts.clock import utc_now
from artifacts.durable import created
from artifacts.errors import UserError
from artifacts.reader import read_manifest
from artifacts.registry import Registry
from artifacts.registry.names import RegistryError, is_name
from kernels.cpu.host import host
from kernels.reference import limit_threads
from kernels.refusal import Refusal
from optimizer.difference import Difference, Facts, difference_of
from optimizer.measure.served_blocks import measure_block
from optimizer.nights.gathering import RESULT, nights_of_name
from optimizer.nights.night import Night
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.retune.incumbent import Incumbent, located
from optimizer.retune.night import Reference, RetuneNight
from optimizer.retune.speed import MeasureBlock
from optimizer.retune.summary import summary
from optimizer.retune.verdict import judged
from optimizer.run.freed_memory import keep_freed_memory
from optimizer.run.workspace import held, workspace_of
from optimizer.spec import ModelSpec, load_spec
from optimizer.stages.job import Job, storage_of
from optimizer.stages.sharing import holding

SUMMARY, CANDIDATE = "summary.md", "candidate"
_GITHUB = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True)
class Request:
    """What the command line asks for. `incumbent` and `reference` are folders, or names or digests of `registry`."""

    spec_path: Path
    incumbent: str
    registry: Path | None = None
    reference: str | None = None
    output: Path | None = None


def run_retune(request: Request, reporter: Reporter | None = None, measure: MeasureBlock = measure_block) -> Night:
    """The night that was asked for, told in its folder and, of a name, in the registry. UserError where none can begin."""
    reporter = reporter or Reporter()
    keep_freed_memory()
    spec = load_spec(request.spec_path)
    if spec.is_planning:
        raise UserError("source: random plans only for shapes, and there is no incumbent to keep; retune a real model")
    registry = None if request.registry is None else Registry.open(request.registry)
    folder = (request.output or spec.output.with_name(f"{spec.output.name}.retune")).absolute()
    spec = spec.model_copy(update={"output": folder / CANDIDATE})
    limit_threads(host().num_cores)
    with held(workspace_of(spec.output)):
        for old in (RESULT, SUMMARY):
            (folder / old).unlink(missing_ok=True)
        shutil.rmtree(spec.output, ignore_errors=True)
        incumbent = located(request.incumbent, registry)
        night = _night(spec, request, registry, incumbent, reporter, measure)
        told, result = _written(folder, night, incumbent)
        if registry is not None and is_name(request.incumbent):
            try:
                _tell(registry, request.incumbent, night, spec.output, result)
            except RegistryError as error:
                night = judged(night, "inconclusive", f"{night.why}; but the name stays: {error}")
                told, result = _written(folder, night, incumbent)
                _tell(registry, request.incumbent, night, spec.output, result)
    if path := os.environ.get(_GITHUB):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(told)
    reporter.say(f"{night.verdict}: {night.why}\nresult: {folder / RESULT}")
    return night


def _night(
    spec: ModelSpec, request: Request, registry: Registry | None, folder: Path, reporter: Reporter, measure: MeasureBlock
) -> Night:
    """A night that fails for a reason that a user can put right is a result too."""
    workspace, time, manifest = workspace_of(spec.output), utc_now(), read_manifest(folder)
    before = [] if registry is None else nights_of_name(registry, request.incumbent)
    blank = Night(model=spec.name, time=time, verdict="failed", why="not judged", incumbent=manifest.digest, fingerprint={})
    try:
        incumbent = Incumbent.read(folder)
        reference = None if request.reference is None else _reference(located(request.reference, registry))
        ledger = Ledger(storage_of(spec, workspace), f"{spec.name}/nights", reporter.say)
        earlier = None if incumbent.making is None else incumbent.making.earlier
        with holding(Job.open(spec, workspace, reporter, earlier)) as job:
            return RetuneNight(job, incumbent, reference, before, ledger, time, measure).run()
    except (UserError, Refusal) as error:
        reporter.say(f"the night failed: {error}")
        return judged(blank, "failed", str(error))


def _reference(folder: Path) -> Reference:
    return Reference(folder, read_manifest(folder).digest)


def _difference(incumbent: Path, candidate: Path, night: Night) -> Difference | None:
    if night.candidate is None:
        return None
    return difference_of(Facts.read(incumbent), Facts.read(candidate))


def _written(folder: Path, night: Night, incumbent: Path) -> tuple[str, bytes]:
    """The summary and result.json, which are in `folder` now."""
    told = summary(night, _difference(incumbent, folder / CANDIDATE, night))
    result = canonical_json(night.model_dump(mode="json"))
    _put(folder / RESULT, result)
    _put(folder / SUMMARY, told.encode())
    return told, result


def _tell(registry: Registry, name: str, night: Night, candidate: Path, result: bytes) -> None:
    """The name moves to what is proven better, if it still means what that was compared with; else the night is noted."""
    if night.verdict == "promoted":
        registry.promote(name, registry.add(candidate), why=night.why, evidence=result, expected=night.incumbent)
    else:
        registry.note(name, why=f"{night.verdict}: {night.why}", evidence=result)


def _put(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.writing")
    partial.unlink(missing_ok=True)
    with created(partial) as file:
        file.write(data)
    partial.replace(path)
