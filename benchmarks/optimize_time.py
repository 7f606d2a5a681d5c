"""How long does `optimize` take on two versions of the code, and are its choices as fast?

    python -m benchmarks.optimize_time examples/smollm2.yaml BASE [OURS] [--pairs 2] [--out benchmarks/results/NAME.json]

BASE and OURS are checkouts; OURS is this one by default. Their `optimize` runs in turn, A B A B, each from nothing: new
storage, new workspace, no compiled object. Told of each run: wall-clock seconds, CPU seconds over these (how many cores were
busy), seconds of each stage, and what was chosen. At the end the last bundles decode and compute a prompt in pairs, each
served by its own code.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from artifacts.reader import read_manifest
from benchmarks.tune_agreement import choices
from kernels.cpu.host import host

HERE = Path(__file__).parents[1]
NUM_SPEED_PAIRS = 15
#: in a process of its own: milliseconds of a step of BUNDLE, as many times as it is told to by a line
STEPPER = """
import sys, time
from pathlib import Path
from artifacts.reader import open_bundle
from kernels.cpu.host import host
from runtime.batch import Span, build_batch
from runtime.loading import load_runner

bundle = open_bundle(Path(sys.argv[1]), machine=host().machine, cpu_flags=host().flags, gpu_arch=lambda: None)
runner, block_size = load_runner(bundle), bundle.manifest.serving.kv_block_size
for line in sys.stdin:
    num_tokens, context, repeats = map(int, line.split())
    table = range((context + num_tokens) // block_size + 1)
    batch = build_batch([Span([7] * num_tokens, context, table, num_logits=1)], block_size)
    begin = time.perf_counter()
    for _ in range(repeats):
        runner.run(batch)
    print((time.perf_counter() - begin) / repeats * 1e3, flush=True)
"""


@dataclass(frozen=True)
class Run:
    """One `optimize` from nothing."""

    version: str
    wall_s: float
    cores_busy: float
    stages_s: dict[str, float]
    choices: dict[str, object]


def environment(checkout: Path, folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout), "XDG_CACHE_HOME": str(folder / "cache")}


def optimized(version: str, checkout: Path, spec: Path, folder: Path) -> tuple[Run, Path]:
    """The run, and its bundle in `folder`."""
    bundle = folder / "bundle"
    command = [sys.executable, "-c", "from optimizer.cli import optimize; optimize()", str(spec), "-o", str(bundle)]
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=checkout, env=environment(checkout, folder), stderr=subprocess.PIPE, text=True)
    wall_s, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{version}: optimize failed with status {done.returncode}:\n{done.stderr}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    stages: dict[str, float] = {}
    for title, seconds in re.findall(r"^(.*): done, \d+ in ([\d.]+) s$", done.stderr, re.MULTILINE):
        stages[title] = stages.get(title, 0.0) + float(seconds)
    return Run(version, wall_s, cpu_s / wall_s, stages, choices(read_manifest(bundle))), bundle


def step_pairs(checkouts: dict[str, Path], bundles: dict[str, Path], num_tokens: int, context: int) -> dict[str, object]:
    """Milliseconds of a step of both bundles, in turn, and the median ratio of a pair: above 1 where `ours` is slower."""
    steppers = {
        version: subprocess.Popen(
            [sys.executable, "-c", STEPPER, str(bundles[version])],
            cwd=checkouts[version],
            env={**os.environ, "PYTHONPATH": str(checkouts[version])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for version in bundles
    }

    def ms(version: str) -> float:
        stepper = steppers[version]
        assert stepper.stdin is not None and stepper.stdout is not None
        stepper.stdin.write(f"{num_tokens} {context} {1 if num_tokens > 1 else 10}\n")
        stepper.stdin.flush()
        return float(stepper.stdout.readline())

    try:
        for version in steppers:
            ms(version)
        pairs = [(ms("base"), ms("ours")) for _ in range(NUM_SPEED_PAIRS)]
    finally:
        for stepper in steppers.values():
            stepper.kill()
    ratios = sorted(ours / base for base, ours in pairs)
    return {
        "base_ms": median(base for base, _ in pairs),
        "ours_ms": median(ours for _, ours in pairs),
        "ours_over_base": {"median": median(ratios), "low": ratios[3], "high": ratios[-4]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("base", type=Path, help="a checkout of the code to compare with")
    parser.add_argument("ours", type=Path, nargs="?", default=HERE)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    checkouts = {"base": arguments.base.resolve(), "ours": arguments.ours.resolve()}
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as temporary:
        bundles: dict[str, Path] = {}
        for number in range(arguments.pairs):
            for version, checkout in checkouts.items():
                folder = Path(temporary) / f"{version}-{number}"
                folder.mkdir()
                run, bundles[version] = optimized(version, checkout, arguments.spec.resolve(), folder)
                runs.append(run)
                print(f"{version}: {run.wall_s:.0f} s, {run.cores_busy:.2f} cores busy", flush=True)
        speed = {"decode": step_pairs(checkouts, bundles, 1, 192), "prefill": step_pairs(checkouts, bundles, 128, 0)}
    wall = {version: median(run.wall_s for run in runs if run.version == version) for version in checkouts}
    result = {
        "cpu": host().model,
        "cores": host().num_cores,
        "ours_over_base_wall": wall["ours"] / wall["base"],
        "speed_of_the_last_bundles": speed,
        "runs": [asdict(run) for run in runs],
    }
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
