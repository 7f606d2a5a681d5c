"""How many columns a program has at once, and how many warps share them."""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.launch import Problem
from kernels.gpu.rows import NUM_WARPS, block_of, row_refusal, row_warps
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point
from kernels.quantize_activations.output import SCALE_BLOCK, form_of

#: A whole row up to here stays in registers; a longer one is read twice.
_LONGEST_BLOCK = 16384


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    longest = _LONGEST_BLOCK if form_of(symbol).scaling == "row" else 4096
    blocks = tuple(block for power in range(7, 15) if (block := 1 << power) <= longest)
    return {"block": blocks, "num_warps": NUM_WARPS}


def _widest(problem: Problem) -> int:
    halves = 1 if "gate" in problem else 2
    return max(SCALE_BLOCK, block_of(problem["x"].shape[1] // halves))


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    if point["block"] > _widest(problem):
        return f"{point['block']} columns are more than the row has"
    return form_of(problem.symbol).refusal(target) or row_refusal(point["block"], point["num_warps"], target)


def _default(problem: Problem, target: Target) -> Point:
    row = form_of(problem.symbol).scaling == "row"
    widest = _widest(problem)
    block = min(widest, 2048) if not row or widest > _LONGEST_BLOCK else widest
    return {"block": block, "num_warps": row_warps(block, target)}


TUNING = GpuTuning(_parameters, _refusal, _default)
