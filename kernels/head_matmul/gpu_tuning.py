"""Tiles of the matmul of a head."""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.launch import DTYPES, Problem
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    return {
        "block_m": (16, 32, 64, 128),
        "block_n": (32, 64, 128, 256),
        "block_k": (32, 64, 128),
        "swap": (0, 1),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4),
    }


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    block_m, block_n = point["block_m"], point["block_n"]
    if point["swap"] and block_m > 64:
        return f"operands are swapped for tiles of few rows: block_m is at most 64, got {block_m}"
    elements = block_m * block_n // (point["num_warps"] * target.arch.warp_size)
    if not 2 <= elements <= 128:
        return f"an accumulator takes {elements} registers per thread: between 2 and 128 fit"
    stage = (block_m + block_n) * point["block_k"] * DTYPES[problem["x"].dtype][0]
    if stage * point["num_stages"] > target.arch.tile_shared_bytes:
        return f"{point['num_stages']} stages of {stage} bytes exceed {target.arch.tile_shared_bytes} bytes of shared memory"
    return None


def _default(problem: Problem, target: Target) -> Point:
    large = problem["x"].shape[0] >= 64
    return {
        "block_m": 64 if large else 16,
        "block_n": 128 if large else 64,
        "block_k": 64 if large else 128,
        # wgmma and tcgen05 take 64 rows of weights and as few columns of tokens as there are.
        "swap": int(not large and target.arch.name in ("sm_90", "sm_100")),
        "num_warps": 4,
        "num_stages": 3 if target.arch.backend == "cuda" else 2,
    }


TUNING = GpuTuning(_parameters, _refusal, _default)
