"""Rows and positions of a tile, and how many stretches a decoding sequence is cut into.

The accumulator [block_m, R] is what limits a tile: with R = 512, 64 rows are 128 registers of each of 256 threads.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.launch import DTYPES, Problem
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point
from kernels.mla_attention.launch import row_tiles

#: Their matrix units take 64 rows at once, with operands in shared memory.
_ROWS_OF_64 = ("sm_90", "sm_100")

_SPLITS = (1, 2, 4, 8, 16, 32, 64)

#: (block_m, block_n, num_warps), most rows first: the first that has no more rows than there are, and fits, is the default.
#: Compiled for R + P = 512 + 64, none of them spills where it is legal. AMD's waves of 8 per program have too few registers.
_DEFAULTS = {
    "cuda": ((64, 32, 8), (64, 16, 8), (32, 32, 8), (16, 64, 8), (16, 32, 8), (16, 16, 4)),
    "hip": ((16, 32, 4), (16, 16, 4)),
}


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    return {
        "block_m": (16, 32, 64, 128),
        "block_n": (16, 32, 64, 128),
        "num_splits": _SPLITS,
        "num_warps": (4, 8),
        "num_stages": (2, 3),
    }


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    width, rank, arch = problem["q"].shape[2], problem["out"].shape[2], target.arch
    block_m, block_n, num_stages = point["block_m"], point["block_n"], point["num_stages"]
    for name, extent in (("R", rank), ("P", width - rank)):
        if extent < 16 or extent & (extent - 1):
            return f"{name} must be a power of two of at least 16, got {extent}"
    if point["num_splits"] > 1 and problem.scalars["max_query_len"] != 1:
        return f"only a decoding sequence is split, and max_query_len is {problem.scalars['max_query_len']:.0f}"
    registers = block_m * rank // (point["num_warps"] * arch.warp_size)
    if registers > 128:
        return f"an accumulator of {block_m} x {rank} takes {registers} registers per thread; 128 leave room for the rest"
    if arch.backend == "hip" and num_stages > 2:
        return f"AMD's pipelines have at most 2 stages here, got {num_stages}"
    element_bytes = DTYPES[problem["cache"].dtype][0]
    # Operands of asynchronous matmuls stay where they are until those are done: one buffer more.
    buffers = num_stages if block_m >= 64 and arch.name in _ROWS_OF_64 else num_stages - 1
    shared = (block_m * width + buffers * block_n * width + block_m * block_n) * element_bytes
    if shared > arch.tile_shared_bytes:
        return f"queries and {buffers} buffers of latents take {shared} bytes of {arch.tile_shared_bytes} of shared memory"
    return None


def _default(problem: Problem, target: Target) -> Point:
    num_seqs, heads, decode = problem["seq_lens"].shape[0], problem["q"].shape[1], problem.scalars["max_query_len"] == 1
    rows = heads if decode else heads * problem["q"].shape[0] // max(1, num_seqs)
    point: dict[str, int] = {}
    for block_m, block_n, num_warps in _DEFAULTS[target.arch.backend]:
        point = {"block_m": block_m, "block_n": block_n, "num_splits": 1, "num_warps": num_warps, "num_stages": 2}
        # With 64 rows there are no registers left for a pointer of each position; few positions pay where rows come by 64.
        spills = block_m == 64 and block_n > problem["cache"].shape[1]
        slow = block_m > block_n * 2 and target.arch.name not in _ROWS_OF_64
        if block_m <= max(16, rows) and not (spills or slow) and _refusal(problem, point, target) is None:
            break
    if decode:
        longest = problem["block_tables"].shape[1] * problem["cache"].shape[1]
        wanted = min(target.num_sms // max(1, row_tiles(problem, point["block_m"])), longest // (2 * point["block_n"]))
        point["num_splits"] = max(splits for splits in _SPLITS if splits <= max(1, wanted))
    return point


TUNING = GpuTuning(_parameters, _refusal, _default)
