"""How many columns a program has."""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.launch import Problem
from kernels.gpu.rows import NUM_WARPS, row_refusal, row_warps
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    return {"block": (128, 256), "num_warps": NUM_WARPS}


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    return row_refusal(point["block"], point["num_warps"], target)


def _default(problem: Problem, target: Target) -> Point:
    return {"block": 128, "num_warps": row_warps(128, target)}


TUNING = GpuTuning(_parameters, _refusal, _default)
