"""Threads that are late, or stop midway: what is computed is the same, nobody waits who need not, and who waits sleeps."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kernels import registry
from kernels.cpu.library import CompiledProgram, Library
from kernels.spec import Arguments, Call, Program
from tests.kernels.accuracy import copied, make
from tests.kernels.claiming import Claiming
from tests.kernels.emulated import builds_of
from tests.kernels.test_team import counting_program


def compiled_calls(library: Library, num_calls: int, num_threads: int) -> CompiledProgram:
    return library.compile(counting_program(num_calls)[0], num_threads)


def outputs(library: Library, symbol: str, arguments: Arguments, num_threads: int, claiming: Claiming | None = None) -> bytes:
    """What an entry point leaves in its arguments, by threads that are slow if `claiming` is given."""
    spec, arguments = registry.spec(symbol), copied(arguments)
    sizes = spec.sizes(arguments)
    counters = {axis: np.array([sizes.get(axis, 0)], np.int64) for axis in spec.variable}
    program = library.compile(
        Program((Call(symbol, arguments, {axis: axis for axis in spec.variable}),), counters), num_threads
    )
    alive = claiming and claiming.slow_down(program)
    program.run()
    del alive
    return b"".join(np.asarray(arguments[tensor.name]).tobytes() for tensor in spec.tensors if tensor.role in ("out", "inout"))


@pytest.mark.parametrize(
    ("each_library", "symbol"),
    [(built, spec.symbol) for spec in registry.specs().values() for built in builds_of(spec.op)],
    indirect=["each_library"],
)
def test_no_bit_depends_on_who_computes(each_library: Library, claiming: Claiming, symbol: str) -> None:
    spec = registry.spec(symbol)
    for case in spec.cases:
        inputs = make(spec, case)
        alone = outputs(each_library, symbol, inputs, 1)
        for num_threads in (2, 3, 4):
            assert outputs(each_library, symbol, inputs, num_threads, claiming) == alone, (case.name, num_threads)


@pytest.mark.parametrize("num_threads", [1, 2, 3, 7])
def test_each_item_is_done_once(library: Library, claiming: Claiming, num_threads: int) -> None:
    calls = [(40, 1), (0, 1), (1, 1), (1000, 16), (3, 8), (200_000, 1), (2, 1)]
    program = compiled_calls(library, len(calls), num_threads)
    times = claiming.counting("count_items", program, calls)
    for _ in range(100):
        program.run()
    for counted, call in zip(times, calls, strict=True):
        assert (counted == 100).all(), call


def test_who_waits_sleeps(library: Library, claiming: Claiming) -> None:
    program = compiled_calls(library, 3, 4)
    claiming.counting("sleep_at", program, [(1, 1)] * 3)
    before, begin = time.process_time(), time.monotonic()
    program.run()
    time.sleep(0.1)
    took = time.monotonic() - begin
    assert took > 0.3
    assert time.process_time() - before < 0.1 * took


def test_a_thread_that_does_not_come_holds_nobody_up(library: Library, claiming: Claiming) -> None:
    program = compiled_calls(library, 3, 4)
    claiming.counting("sleep_at", program, [(0, 1)] * 3)
    assert program.profile_ms().sum() < 80
    claiming.counting("sleep_at", program, [(1, 1)] * 3)
    # The others come late to the first call, and then to one that is over.
    assert program.profile_ms().max() < 180


def test_more_threads_than_cores_on_one_core(library: Library) -> None:
    """Short programs in turn; threads inherit the affinity of the one that starts them."""
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(affinity)})
    try:
        short, of_short = counting_program(1)
        long, of_long = counting_program(5)
        run_short, run_long = library.compile(short, 8).run, library.compile(long, 8).run
        for _ in range(500):
            run_short()
            run_long()
    finally:
        os.sched_setaffinity(0, affinity)
    assert (of_short == 500).all()
    assert (of_long == 500).all()


def test_threads_that_cannot_start_are_an_error(kernels_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from kernels.cpu.library import Library
from kernels.refusal import Refusal
library = Library(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    library._team(5000)
except Refusal as error:
    print(error)
library._team(2)
"""
    started = subprocess.run(
        [sys.executable, "-c", program, str(kernels_path)], capture_output=True, text=True, cwd=registry.ROOT.parent
    )
    assert started.stdout == "could not start 5000 threads; lower num_threads\n", started.stderr
    assert started.returncode == 0
