"""Steps of a model on a machine that others use too: beside a neighbour that fills one of two cores, and within a quota of one.

    python -m benchmarks.shared_machine --model MODEL --out FILE [--before LIBRARY]

Every figure is a median over rounds in turn, A B A B, each of which is the mean of steps for at least a fifth of a second,
since single steps fall into and between the neighbour's turns. `--before` is a library of an earlier version, which
`--build LIBRARY` makes in that version's tree; without it the present one is compared with itself, which shows the noise. Two
threads beside the neighbour have 1.5 cores: it is a process of the same session, so it gets a thread's share. The quota is a
control group's where this process may make one, else one core of its affinity.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TypeAlias

from artifacts.precision import Plan, Scheme
from kernels.cpu.build import build
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library
from optimizer.cost.workload import Workload, decode_spans, prefill_spans
from optimizer.importers.opening import open_source
from optimizer.quantized_store import QuantizedStore
from optimizer.tuning.timing import interleaved_ms
from optimizer.workbench import CpuWorkbench
from runtime.batch import build_batch

SCHEMES = ("int8-a8", "int4-g64-sym-a8")
BLOCK_SIZE = 32
SPANS = {
    "decode at 256": decode_spans(Workload(prompt_tokens=224, output_tokens=64, concurrency=1), 1, BLOCK_SIZE),
    "prompt of 256": prefill_spans(256, BLOCK_SIZE),
}
_MIN_ROUND_MS = 200
_PERIOD_US = 100_000

Steps: TypeAlias = Mapping[str, Callable[[], object]]


def steps(
    bench: CpuWorkbench, plan: Plan, libraries: Mapping[str, Library], threads: int
) -> dict[str, dict[str, Callable[[], object]]]:
    """Kind of step -> library -> what runs it."""
    made: dict[str, dict[str, Callable[[], object]]] = {}
    for kind, spans in SPANS.items():
        tokens = sum(len(span.token_ids) for span in spans)
        room = sum(len(span.block_table) for span in spans) * BLOCK_SIZE
        runner = bench.runner(plan, tokens, room, len(spans))
        runner.fill(build_batch(spans, BLOCK_SIZE))
        made[kind] = {name: library.compile(runner.step.program, threads).run for name, library in libraries.items()}
    return made


@contextmanager
def neighbour() -> Iterator[None]:
    """A process that never sleeps, on whichever core the system gives it."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def one_core() -> Iterator[str]:
    """This process within a quota of one core, or on one core; how it was done."""
    memberships = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    own = next((path for _, controllers, path in memberships if "cpu" in controllers.split(",")), "/")
    group = Path(f"/sys/fs/cgroup/cpu{own.rstrip('/')}/coldforge-{os.getpid()}")
    try:
        group.mkdir()
    except OSError:
        before = os.sched_getaffinity(0)
        _confine({min(before)})
        yield "affinity"
        _confine(before)
        return
    try:
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(_PERIOD_US))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield "cpu.cfs_quota_us"
    finally:
        (group.parent / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def _confine(cores: set[int]) -> None:
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def main() -> None:
    options = _arguments()
    if options.build:
        build({}, options.build, best_isa(host()))
        return
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(options.model)
        store = QuantizedStore(source, Path(folder) / "weights")
        now = Library(build({}, Path(folder) / "now.so", best_isa(host())))
        libraries = {"before": Library(options.before) if options.before else now, "now": now}
        bench = CpuWorkbench(source.architecture, store, "bf16", BLOCK_SIZE, now, 2)
        result: dict[str, object] = {
            "command": f"python -m benchmarks.shared_machine --rounds {options.rounds}",
            "machine": host().model,
            "num_cores": host().num_cores,
            "load_average_before": os.getloadavg()[0],
            "rounds": options.rounds,
        }
        rows: dict[str, dict[str, float]] = {}
        for scheme in SCHEMES:
            plan = dict.fromkeys(source.architecture.linear_shapes(), Scheme.parse(scheme))
            both, alone = (steps(bench, plan, libraries, threads) for threads in (2, 1))
            for kind in SPANS:
                rows[f"{scheme}, {kind}"] = row = {}

                def measure(condition: str, actions: Steps, row: dict[str, float] = row) -> None:
                    for name, samples in interleaved_ms(actions, options.rounds, _MIN_ROUND_MS).items():
                        row[f"{condition}, {name}"] = round(median(samples), 3)

                measure("quiet", both[kind])
                with neighbour():
                    measure("neighbour", both[kind])
                with one_core() as how:
                    result["quota"] = how
                    measure("quota", both[kind] | {"one thread": alone[kind]["now"]})
                for name in libraries:
                    row[f"neighbour / quiet, {name}"] = round(row[f"neighbour, {name}"] / row[f"quiet, {name}"], 3)
                print(f"{scheme}, {kind}: {json.dumps(row)}", flush=True)
        if options.out:
            options.out.write_text(json.dumps(result | {"median_ms": rows}, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--before", type=Path, help="a library of another version of this code")
    parser.add_argument("--build", type=Path, metavar="LIBRARY", help="only build this version's library")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
