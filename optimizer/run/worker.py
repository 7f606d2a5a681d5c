"""`coldforge worker`: from a model.yaml and a storage to a worker of the search there."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from artifacts.errors import UserError
from kernels.cpu.host import host
from kernels.cpu.isa import isa
from kernels.reference import limit_threads
from optimizer.records.holder import Holder
from optimizer.records.ledger import Ledger, names_in
from optimizer.records.progress import Reporter
from optimizer.run.freed_memory import keep_freed_memory
from optimizer.run.workspace import held
from optimizer.search.offer import CannotJoin
from optimizer.search.precision import interruptible
from optimizer.spec import load_spec
from optimizer.stages.job import Job
from optimizer.stages.worker import WorkerStage, awaited_offer


def run_worker(
    spec_path: Path, storage: str | None, workspace: Path | None, threads: int | None, reporter: Reporter | None = None
) -> int:
    """Join the search of the model that `spec_path` names; how many trials were scored here.

    Raises UserError, CannotJoin and WorkspaceHeld among them.
    """
    reporter = reporter or Reporter()
    keep_freed_memory()
    spec = load_spec(spec_path)
    url, threads = storage or spec.search.storage, threads or host().num_cores
    if url is None:
        raise UserError("a worker needs the storage of its search; give --storage URL, or search.storage in model.yaml")
    if spec.is_planning:
        raise UserError("source: random plans only for shapes: there are no trials; leave the worker out")
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"storage": url})})
    if spec.name not in (names := names_in(url, reporter.say)):
        found = f"has {', '.join(names)}" if names else "has none"
        raise CannotJoin(
            f"a worker joins a search that has begun, and this storage {found}, not {spec.name}; start optimize --workers"
        )
    offer = awaited_offer(Ledger(url, spec.name, reporter.say), reporter.say)
    offer.check_version(version("coldforge"))
    instructions = isa(offer.isa) if offer.isa else None
    if instructions and (missing := instructions.missing(host())):
        raise CannotJoin(f"kernels of the search are for {offer.isa}, and this CPU lacks {', '.join(missing)}; leave it out")
    limit_threads(threads)
    workspace = (workspace or spec.output.with_name(spec.output.name + ".worker")).absolute()
    with held(workspace, "another folder with --workspace"), interruptible(reporter, "leaving after this trial") as stop:
        job = Job.open(spec, workspace, reporter, isa=instructions)
        num_scored = WorkerStage(job, offer, threads, Holder.here(workspace)).run(stop)
    reporter.say(f"the search is over, or was left: {num_scored} trials were scored here")
    return num_scored
