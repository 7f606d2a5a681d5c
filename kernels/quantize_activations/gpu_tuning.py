"""How many columns a program takes, where it need not take the row, and how many warps share them."""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.launch import Problem
from kernels.gpu.rows import NUM_WARPS, block_of, row_refusal, row_warps
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point
from kernels.quantize_activations.output import SCALE_BLOCK, form_of


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    if form_of(symbol).scaling == "row":
        return {"num_warps": NUM_WARPS}
    return {"block": (128, 256, 512, 1024, 2048, 4096), "num_warps": NUM_WARPS}


def block(problem: Problem, point: Point) -> int:
    """Columns of a program."""
    return point.get("block") or block_of(problem["x"].shape[1])


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    widest = max(SCALE_BLOCK, block_of(problem["x"].shape[1]))
    if point.get("block", 0) > widest:
        return f"{point['block']} columns are more than the row has"
    return form_of(problem.symbol).refusal(target) or row_refusal(block(problem, point), point["num_warps"], target)


def _default(problem: Problem, target: Target) -> Point:
    width = block_of(problem["x"].shape[1])
    if form_of(problem.symbol).scaling == "row":
        return {"num_warps": row_warps(width, target)}
    columns = min(2048, max(SCALE_BLOCK, width))
    return {"block": columns, "num_warps": row_warps(columns, target)}


TUNING = GpuTuning(_parameters, _refusal, _default)
