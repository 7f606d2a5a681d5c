"""Do tunes beside a process that uses a core in bursts choose as many threads as a quiet one?

    python -m benchmarks.threads_beside_neighbour examples/smollm2.yaml [--tunes 5] [--burst 20] [--out FILE]

Runs `optimize` once on the machine as it is, then so many times beside a neighbour that fills one core for `--burst` seconds
and sleeps as long, each from nothing, and compares the bundles' `num_threads`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from pathlib import Path

from benchmarks.tune_agreement import fresh_tune
from kernels.cpu.host import host


def neighbour(burst_s: float, begin_s: float) -> None:
    """Fills a core for `burst_s` of every 2 x `burst_s` seconds, `begin_s` of the first burst gone."""
    end = time.monotonic() + burst_s - begin_s
    while True:
        while time.monotonic() < end:
            pass
        time.sleep(burst_s)
        end = time.monotonic() + burst_s


def num_threads(spec: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return fresh_tune(spec, Path(folder)).serving.num_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--tunes", type=int, default=5)
    parser.add_argument("--burst", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    quiet, beside = num_threads(arguments.spec), []
    draw = random.Random(0)
    for _ in range(arguments.tunes):
        other = multiprocessing.Process(target=neighbour, args=(arguments.burst, draw.uniform(0, arguments.burst)), daemon=True)
        other.start()
        try:
            beside.append(num_threads(arguments.spec))
        finally:
            other.terminate()
            other.join()
    result = {
        "cpu": host().model,
        "cores": host().num_cores,
        "burst_s": arguments.burst,
        "quiet": quiet,
        "beside_a_neighbour": beside,
        "same": sum(threads == quiet for threads in beside),
    }
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
