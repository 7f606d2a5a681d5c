"""Times single calls of CPU kernels on builds for several instruction sets in turn, A B A B."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from kernels.cpu.build import build
from kernels.cpu.host import host
from kernels.cpu.isa import isa
from kernels.cpu.library import CompiledProgram, Library
from kernels.spec import Program

_SECONDS = 0.4


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every such benchmark is asked."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isas", default="x86-64-v4-vnni,x86-64-v4-amx")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    return parser


def compare(cases: Iterable[tuple[str, Program]], options: argparse.Namespace) -> None:
    """Prints and writes the median microseconds of each case on each build, over all its calls in all rounds."""
    with tempfile.TemporaryDirectory() as folder:
        libraries = {name: Library(build({}, Path(folder) / f"{name}.so", isa(name))) for name in options.isas.split(",")}
        medians: dict[str, dict[str, float]] = {}
        for case, program in cases:
            compiled = {name: library.compile(program, options.threads) for name, library in libraries.items()}
            taken: dict[str, list[float]] = {name: [] for name in compiled}
            for _ in range(options.rounds):
                for name, each in compiled.items():
                    taken[name] += _calls_us(each)
            medians[case] = {name: round(median(calls), 1) for name, calls in taken.items()}
            print(f"{case}: {', '.join(f'{name} {us} us' for name, us in medians[case].items())}")
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "isas")}
    options.out.write_text(json.dumps({"machine": host().model, **settings, "median_us": medians}, indent=2) + "\n")


def _calls_us(program: CompiledProgram) -> list[float]:
    """What calls took, in microseconds, for a moment."""
    program.run()
    taken = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < _SECONDS:
        before = time.perf_counter()
        program.run()
        taken.append((time.perf_counter() - before) * 1e6)
    return taken
