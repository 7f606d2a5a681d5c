"""How many warps share a row."""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.launch import Problem
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    return {"num_warps": (1, 2, 4, 8, 16)}


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    width, lanes = problem["x"].shape[-1], point["num_warps"] * target.arch.warp_size
    if lanes > 1024:
        return f"{lanes} threads are more than a program may have, 1024"
    if point["num_warps"] > 1 and lanes > width:
        return f"{point['num_warps']} warps have more threads than the row has elements, {width}"
    return None


def _default(problem: Problem, target: Target) -> Point:
    # Eight elements of two bytes are the widest load of a thread.
    wanted = problem["x"].shape[-1] / (8 * target.arch.warp_size)
    legal = (warps for warps in (8, 4, 2) if warps <= max(1.0, wanted))
    return {"num_warps": next(legal, 1)}


TUNING = GpuTuning(_parameters, _refusal, _default)
