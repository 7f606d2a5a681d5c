"""A night in a process of its own, to be killed. Blocks are said, not measured: what is in use is the slower one, always."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from rich.console import Console

from artifacts.reader import read_manifest
from artifacts.registry import Registry
from optimizer.measure.served_blocks import Block
from optimizer.nights.night import EXIT_CODES
from optimizer.records.progress import Reporter
from optimizer.retune.command import Request, run_retune

#: forks of a process that has imported all of this already, and has no threads
CONTEXT: ForkServerContext = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["optimizer.run.forge", __name__])


def begin(spec_path: Path, name: str, root: Path, folder: Path) -> ForkServerProcess:
    """A night that has begun; its exit code says the verdict."""
    night = CONTEXT.Process(target=_run, args=(spec_path, name, root, folder))
    night.start()
    return night


def _run(spec_path: Path, name: str, root: Path, folder: Path) -> None:
    used = Registry.open(root).digest_of(name)

    def slower_if_used(other: Path, this: Path, *_: object) -> Block:
        ms = (10.6 if read_manifest(one).digest == used else 10.0 for one in (other, this))
        return Block(*({"workload": one, "decode": one, "prefill": one} for one in ms))

    request = Request(spec_path, name, root, None, folder)
    night = run_retune(request, Reporter(Console(quiet=True)), slower_if_used)
    sys.exit(EXIT_CODES[night.verdict])
