"""How many columns a program copies, and how many warps share them."""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.launch import Problem
from kernels.gpu.rows import NUM_WARPS, block_of, row_refusal, row_warps
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point

_BLOCKS = (128, 256, 512, 1024, 2048, 4096)


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    return {"block": _BLOCKS, "num_warps": NUM_WARPS}


def _widest(problem: Problem) -> int:
    return max(_BLOCKS[0], block_of(problem["out"].shape[1]))


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    if point["block"] > _widest(problem):
        return f"{point['block']} columns are more than the row has"
    return row_refusal(point["block"], point["num_warps"], target)


def _default(problem: Problem, target: Target) -> Point:
    block = min(2048, _widest(problem))
    return {"block": block, "num_warps": row_warps(block, target)}


TUNING = GpuTuning(_parameters, _refusal, _default)
