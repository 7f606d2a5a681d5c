"""What this machine reaches, measured: the ceilings that a roofline is drawn with. Measure while the machine is idle."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kernels.cpu.library import Library
from kernels.quant_matmul.spec import random_weight
from kernels.spec import Arguments, Call, Program
from runtime.bench.bound import Peaks

_READ_BYTES_PER_THREAD = 512 << 20
_MAX_READ_BYTES = 4 << 30
_MIN_ROUNDS = 5
_MIN_S = 1.0
_CALLS_PER_ROUND = 10
_FLOAT_VARIANTS = ("fp32", "bf16", "int8")


def measure_peaks(library: Library, num_threads: int) -> Peaks:
    """The peaks of this machine at `num_threads`, through `library`'s kernels where it computes; takes a few seconds.

    memory_gbps   reading alone, each thread through an array of its own that no cache holds. Writes, and reads of what a
                  cache holds, are not in it: a model smaller than the last-level cache can decode faster than it allows.
    float_gflops  quant_matmul with many rows and matrices that stay in each core's cache, in fp32 multiply-adds: the best
                  of fp32, bf16 and int8 weights, which differ in the loads beside the arithmetic.
    int8_gops     the same of int8 weights and int8 activations.

    The arithmetic peaks are what the bundle's own kernels attain at their best, tiles and barriers included, and not what
    the processor's data sheet promises: better kernels would raise them.

    Each is the best round of at least a second, since whatever else runs can only slow a round down.
    """
    return Peaks(
        memory_gbps=_read_gbps(num_threads),
        float_gflops=max(_matmul_gops(library, variant, num_threads) for variant in _FLOAT_VARIANTS),
        int8_gops=_matmul_gops(library, "int8_a8", num_threads),
    )


def _read_gbps(num_threads: int) -> float:
    bytes_per_thread = min(_READ_BYTES_PER_THREAD, _MAX_READ_BYTES // num_threads)
    arrays = [np.ones(bytes_per_thread // 4, np.float32) for _ in range(num_threads)]
    with ThreadPoolExecutor(num_threads) as pool:
        # The maximum needs one instruction per register read, and numpy releases the GIL in it.
        seconds = _best_s(lambda: list(pool.map(np.maximum.reduce, arrays)))
    return sum(array.nbytes for array in arrays) / seconds / 1e9


def _matmul_gops(library: Library, variant: str, num_threads: int) -> float:
    num_tokens, in_features, out_features = 96, 1024, 128 * num_threads
    rng = np.random.default_rng(0)
    arguments: Arguments = {
        **random_weight(rng, variant, out_features, in_features, group_size=0),
        "bias": None,
        "out": np.zeros((num_tokens, out_features), np.float32),
    }
    if variant.endswith("a8"):
        codes = rng.integers(-127, 128, (num_tokens, in_features), np.int8)
        arguments["x_codes"] = codes
        arguments["x_scales"] = np.ones(num_tokens, np.float32)
        arguments["x_sums"] = codes.reshape(num_tokens, -1, 32).sum(axis=2, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
    else:
        arguments["x"] = rng.standard_normal((num_tokens, in_features), np.float32)
    call = Call(f"quant_matmul_{variant}", arguments, {"T": "num_tokens"})
    counters = {"num_tokens": np.array([num_tokens], np.int64)}
    program = library.compile(Program((call,) * _CALLS_PER_ROUND, counters), num_threads)
    operations = 2.0 * num_tokens * in_features * out_features * _CALLS_PER_ROUND
    return operations / _best_s(program.run) / 1e9


def _best_s(run: Callable[[], object]) -> float:
    run()
    rounds_s: list[float] = []
    while len(rounds_s) < _MIN_ROUNDS or sum(rounds_s) < _MIN_S:
        started_s = time.perf_counter()
        run()
        rounds_s.append(time.perf_counter() - started_s)
    return min(rounds_s)
