"""Steps of a model on two cores that others use too: beside a neighbour that fills one of them, and within a quota of one core.

    python -m benchmarks.shared_machine --model MODEL --out FILE [--before LIBRARY]

Every figure is a median over rounds in turn, A B A B, each of which is the mean of steps for at least a fifth of a second,
since single steps fall into and between the neighbour's turns. `--before` is a library of an earlier version, which
`kernels.cpu.build.build({}, PATH, best_isa(host()))` makes in that version's tree; without it the present one is compared with
itself, which shows the noise. Two threads beside the neighbour have 1.5 cores: it is a process of the same session, and so gets
a thread's share. The quota is a control group's of version 1 where this process may make one, else an affinity of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import TypeAlias

from artifacts.precision import Plan, Scheme
from kernels.cpu.build import build
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library
from optimizer.importers.from_path import open_source
from optimizer.measure.timing import interleaved_ms
from optimizer.measure.workbench import CpuWorkbench
from optimizer.measure.workload import Workload, decode_spans, prefill_spans
from optimizer.weights.quantized_store import QuantizedStore
from runtime.batch import build_batch

SCHEMES = ("int8-a8", "int4-g64-sym-a8")
BLOCK_SIZE = 32
SPANS = {
    "decode at 240": decode_spans(Workload(prompt_tokens=208, output_tokens=64, concurrency=1), 1, BLOCK_SIZE),
    "prompt of 256": prefill_spans(256, BLOCK_SIZE),
}
_CORES = 2
_MIN_ROUND_MS = 200
_PERIOD_US = 100_000

Steps: TypeAlias = dict[str, Callable[[], object]]


def steps(bench: CpuWorkbench, plan: Plan, libraries: Mapping[str, Library], kind: str) -> Steps:
    """By each library on all cores, and by the present one on one thread."""
    spans = SPANS[kind]
    room = sum(len(span.block_table) for span in spans) * BLOCK_SIZE
    runner = bench.runner(plan, sum(len(span.token_ids) for span in spans), room, len(spans))
    runner.fill(build_batch(spans, BLOCK_SIZE))
    program = runner.step.program
    made: Steps = {name: library.compile(program, _CORES).run for name, library in libraries.items()}
    return made | {"now, one thread": libraries["now"].compile(program, 1).run}


@contextmanager
def neighbour() -> Iterator[None]:
    """A process that never sleeps, on whichever of the cores the system gives it."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def quota_of_one_core() -> Iterator[None]:
    """This process within a quota of one core; on one core where it may have none."""
    parent = Path("/sys/fs/cgroup/cpu") / _own_group().lstrip("/")
    group = parent / f"coldforge-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        print("no control group can be made: on one core instead", file=sys.stderr)
        before = os.sched_getaffinity(0)
        confine({min(before)})
        yield
        confine(before)
        return
    try:
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(_PERIOD_US))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (parent / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def _own_group() -> str:
    memberships = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    return next((path for _, controllers, path in memberships if "cpu" in controllers.split(",")), "")


def confine(cores: set[int]) -> None:
    """Every thread of this process, and what it starts from now on."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def main() -> None:
    options = _arguments()
    confine(set(sorted(os.sched_getaffinity(0))[:_CORES]))
    rows: dict[str, dict[str, dict[str, float]]] = {}
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(options.model)
        store = QuantizedStore(source, Path(folder) / "weights")
        now = Library(build({}, Path(folder) / "now.so", best_isa(host())))
        libraries = {"before": Library(options.before) if options.before else now, "now": now}
        bench = CpuWorkbench(source.architecture, store, "bf16", BLOCK_SIZE, now, _CORES)
        for scheme in SCHEMES:
            plan = dict.fromkeys(source.architecture.linear_shapes(), Scheme.parse(scheme))
            for kind in SPANS:
                actions, row = steps(bench, plan, libraries, kind), rows.setdefault(f"{scheme}, {kind}", {})
                for condition, share in (("quiet", nullcontext()), ("neighbour", neighbour()), ("quota", quota_of_one_core())):
                    with share:
                        samples = interleaved_ms(actions, options.rounds, _MIN_ROUND_MS)
                    row[condition] = {name: round(median(ms), 3) for name, ms in samples.items()}
                row["neighbour / quiet"] = {
                    name: round(row["neighbour"][name] / row["quiet"][name], 3) for name in ("before", "now")
                }
                print(f"{scheme}, {kind}: {json.dumps(row)}", flush=True)
    setting = {"machine": host().model, "rounds": options.rounds, "load_average_before": load_average}
    if options.out:
        options.out.write_text(json.dumps({**setting, "median_ms": rows}, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--before", type=Path, help="a library of another version of this code")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
