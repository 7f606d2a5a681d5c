"""A search that others join: what they are told, and the workers on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.console import Console

from artifacts.errors import UserError
from kernels.cpu.host import host
from kernels.reference import limit_threads
from optimizer.records.hold import RUNS, hold
from optimizer.records.holder import Holder
from optimizer.records.progress import Reporter
from optimizer.records.record_key import record_key
from optimizer.search.accuracy import Judge
from optimizer.search.bands import Band
from optimizer.search.offer import Offer, probe_each
from optimizer.search.shared import Crew
from optimizer.spec import ModelSpec
from optimizer.stages.job import Job, storage_of

#: how long a worker here may take to see that the search has ended
_FAREWELL_S = 30.0


@contextmanager
def holding(job: Job) -> Iterator[Job]:
    """`job`, alone on its storage if that is not the workspace's own file, and if it is to be shared. StorageHeld as `hold`."""
    if job.spec.search.storage is None and job.spec.search.workers is None:
        yield job  # whoever holds the workspace holds it
        return
    with hold(job.ledger, Holder.here(job.folder.parent), job.reporter.say) as lease:
        yield replace(job, run=lease.number)


@contextmanager
def sharing(job: Job, judge: Judge, bands: Sequence[Band], study: str) -> Iterator[Crew]:
    """The workers of the search whose trials are kept under `study`: those here, and whoever joins. Afterwards it is closed."""
    changes, depends_on = job.uniform_changes(), judge.depends_beside_plan(job.schemes)
    key = record_key("probes", changes={name: list(plan) for name, plan in changes.items()}, **depends_on)
    offer = Offer(
        run=job.run,
        is_open=True,
        version=version("coldforge"),
        sources=job.sources,
        request=job.request,
        isa=job.target.title if job.target.evaluated == "served" else None,
        depends_on=depends_on,
        kv_block_size=judge.workbench.kv_block_size,
        study=study,
        bands={band.name: band.groups for band in bands},
        probes=job.ledger.once(key, lambda: probe_each(judge, changes)),
    )
    runs, processes = job.ledger.study(RUNS), list[BaseProcess]()
    offer.publish(runs)
    here = Holder.here(job.folder.parent)
    crew = Crew(job.ledger, here, job.reporter.say, is_coming=lambda: any(process.is_alive() for process in processes))
    start_workers(job, processes)
    try:
        yield crew
    finally:
        replace(offer, is_open=False).publish(runs)
        for process in processes:
            process.join(_FAREWELL_S)
            if process.is_alive():
                process.kill()
                process.join()


def start_workers(job: Job, processes: list[BaseProcess]) -> None:
    """Adds as many as model.yaml and the command line ask for, which share the machine's cores."""
    num_workers = job.spec.search.workers or 0
    search = job.spec.search.model_copy(update={"storage": storage_of(job.spec, job.folder.parent)})
    spec, num_threads = job.spec.model_copy(update={"search": search}), max(1, host().num_cores // num_workers)
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold
    for index in range(num_workers):
        arguments = spec, job.folder.parent, index, num_threads
        processes.append(context.Process(target=_work, args=arguments, name=f"worker {index}", daemon=True))
        processes[-1].start()


def _work(spec: ModelSpec, workspace: Path, index: int, num_threads: int) -> None:
    """One worker beside its run: in its workspace, whose weights it maps as they are, but with a library of its own."""
    from optimizer.stages.worker import WorkerStage, awaited_offer

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run hears Ctrl-C, and closes the search
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if spec.devices == ("cpu",):
        limit_threads(num_threads)  # an emulation computes with torch, whose bits may follow from its threads
    with Path(os.devnull).open("w") as nowhere:
        reporter = Reporter(Console(file=nowhere))
        try:
            job = Job.open(spec, workspace, reporter, kernels=f"kernels-of-worker-{index}")
            offer = awaited_offer(job.ledger, reporter.say)
            WorkerStage(job, offer, num_threads, Holder.here(workspace)).run(threading.Event())
        except UserError as error:
            print(f"worker {index}: {error}", file=sys.stderr)
            sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
