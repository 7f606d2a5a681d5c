"""How many logits a program has at once, and how many warps share them."""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.launch import Problem
from kernels.gpu.rows import NUM_WARPS, block_of, row_refusal
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    return {"block": (1024, 2048, 4096, 8192), "num_warps": NUM_WARPS[2:]}


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    if point["block"] > 8 * point["num_warps"] * target.arch.warp_size:
        return f"{point['block']} logits and what comes of them do not fit into the registers of {point['num_warps']} warps"
    return row_refusal(point["block"], point["num_warps"], target)


def _default(problem: Problem, target: Target) -> Point:
    block = min(4096, max(1024, block_of(problem["logits"].shape[1])))
    # A row is one program's: as many loads in flight as threads can have.
    return {"block": block, "num_warps": min(16, block // (4 * target.arch.warp_size))}


TUNING = GpuTuning(_parameters, _refusal, _default)
