"""How many warps share the heads of a program."""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.kv_cache import cache_refusal
from kernels.gpu.launch import Problem
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    return {"num_warps": (1, 2, 4, 8)}


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    if "k" in problem and (reason := cache_refusal(problem, target)):
        return reason
    warps = point["num_warps"]
    if warps > 1 and warps * target.arch.warp_size > _pairs(problem):
        return f"{warps} warps have more threads than the heads of a program have pairs, {_pairs(problem)}"
    return None


def _default(problem: Problem, target: Target) -> Point:
    # Four pairs of a thread are enough to load at once; more threads finish a token sooner.
    wanted = _pairs(problem) / (4 * target.arch.warp_size)
    return {"num_warps": next((warps for warps in (4, 2) if warps <= wanted), 1)}


def _pairs(problem: Problem) -> int:
    """Pairs of numbers that a program rotates for query heads: one head, or those of a kv head."""
    _, num_heads, head_dim = problem["q"].shape
    num_programs = problem["k"].shape[1] if "k" in problem else num_heads
    return num_heads // num_programs * head_dim // 2


TUNING = GpuTuning(_parameters, _refusal, _default)
