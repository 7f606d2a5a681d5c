"""Records one session of this machine's noise, as a night's comparison meets it; appended to FILE as a line of JSON.

    python -m benchmarks.record_noise models/SmolLM2-135M-Instruct.Q4_1.gguf --work FOLDER --out FILE [--note TEXT]

A session is a process of its own, since where a program's memory lies stays for its life. It loads the incumbent twice and a
reference once, and times decode steps in blocks of A B B A or B A A B, whose order a coin decides: the incumbent against
itself, then against the reference. Each sample is kept as the mean of its steps and as their lower quartile. Run it at
several moments, beside load and without.
`benchmarks/replayed_nights.py` replays the file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from artifacts.precision import Scheme
from kernels.cpu.build import build
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library
from optimizer.importers.from_path import open_source
from optimizer.measure.disturbance import Disturbance
from optimizer.measure.timing import typical_ms
from optimizer.measure.workbench import CpuWorkbench
from optimizer.measure.workload import Workload, decode_spans
from optimizer.weights.quantized_store import QuantizedStore
from runtime.batch import build_batch

INCUMBENT, REFERENCE = "int4-g32-asym-a8", "int4-g64-sym-a8"
_BLOCK_SIZE = 32
_SPANS = decode_spans(Workload(prompt_tokens=208, output_tokens=64, concurrency=1), 1, _BLOCK_SIZE)
#: a sample is of steps for so long
_SAMPLE_MS = 60.0
_NUM_THREADS = 2
#: what stands for a sample; `optimizer/measure/timing.py` says why a quartile may
_KINDS: dict[str, Callable[[list[float]], float]] = {"mean": lambda ms: float(np.mean(ms)), "quartile": typical_ms}

Step = Callable[[], object]


def steps(model: Path, work: Path) -> dict[str, Step]:
    """Single-stream decode steps: the incumbent, the same once more with memory of its own, and the reference."""
    source = open_source(model)
    work.mkdir(parents=True, exist_ok=True)
    library = work / "kernels.so"
    if not library.exists():
        build({}, library, best_isa(host()))
    kernels = Library(library)

    def step(scheme: str) -> Step:
        store = QuantizedStore(source, work / "weights")
        bench = CpuWorkbench(source.architecture, store, "bf16", _BLOCK_SIZE, kernels, _NUM_THREADS)
        plan = dict.fromkeys(source.architecture.linear_shapes(), Scheme.parse(scheme))
        runner = bench.runner(plan, 1, len(_SPANS[0].block_table) * _BLOCK_SIZE)
        runner.fill(build_batch(_SPANS, _BLOCK_SIZE))
        return runner.executable.run

    return {"incumbent": step(INCUMBENT), "itself": step(INCUMBENT), "reference": step(REFERENCE)}


def blocks(first: Step, second: Step, number: int, coin: random.Random) -> dict[str, list[list[float]]]:
    """Each block's milliseconds of a step: the two of `first`, then the two of `second`, each in the order of time."""
    repeats = {step: max(1, round(_SAMPLE_MS / float(np.mean(_ms(step, 3))))) for step in (first, second)}
    found: dict[str, list[list[float]]] = {kind: [] for kind in _KINDS}
    for _ in range(number):
        order = (first, second, second, first) if coin.random() < 0.5 else (second, first, first, second)
        samples = [(step, _ms(step, repeats[step])) for step in order]
        for kind, value in _KINDS.items():
            found[kind].append([round(value(ms), 3) for wanted in (first, second) for step, ms in samples if step is wanted])
    return found


def _ms(step: Step, count: int) -> list[float]:
    found = []
    for _ in range(count):
        begin = time.perf_counter_ns()
        step()
        found.append((time.perf_counter_ns() - begin) / 1e6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="kept between sessions: the library and the weights' codes")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--blocks", type=int, default=64, help="against itself, and against the reference")
    parser.add_argument("--note", default="", help="what else the machine did, as far as is known")
    parser.add_argument(
        "--first", action="store_true", help="take the cores before other processes while it measures (needs root)"
    )
    arguments = parser.parse_args()
    ready = steps(arguments.model, arguments.work)
    if arguments.first:
        # Linux shares cores between sessions first: within one, a priority would count among its own processes only.
        os.setsid()
        Path("/proc/self/autogroup").write_text("-20")
    for step in ready.values():
        _ms(step, 3)
    coin, disturbance, load = random.Random(), Disturbance(), os.getloadavg()[0]
    incumbent = ready.pop("incumbent")
    against = {f"{name}_ms": blocks(incumbent, other, arguments.blocks, coin) for name, other in ready.items()}
    session = {
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": host().model,
        "cores": host().num_cores,
        "note": arguments.note,
        "load_average": [round(load, 2), round(os.getloadavg()[0], 2)],
        "waited_share": round(disturbance.share(), 3),
        "schemes": {"incumbent": INCUMBENT, "reference": REFERENCE},
        **against,
    }
    with arguments.out.open("a") as file:
        file.write(json.dumps(session, separators=(",", ":")) + "\n")
    print(f"{session['time']}: waited {session['waited_share']}, load {session['load_average']}")


if __name__ == "__main__":
    main()
