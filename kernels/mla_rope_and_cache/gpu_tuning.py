"""How many heads a program rotates."""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.launch import Problem
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    return {"block_h": (4, 8, 16, 32, 64), "num_warps": (1, 2, 4)}


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    rotary = 2 * problem["cos"].shape[1]
    if rotary & (rotary - 1):
        return f"P must be a power of two, got {rotary}"
    return None


def _default(problem: Problem, target: Target) -> Point:
    return {"block_h": 16, "num_warps": 2}


TUNING = GpuTuning(_parameters, _refusal, _default)
