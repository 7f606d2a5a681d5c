"""How many warps share a row."""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.launch import Problem
from kernels.gpu.rows import NUM_WARPS, row_refusal, row_warps
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point
from kernels.quantize_activations.output import form_of


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    return {"num_warps": NUM_WARPS}


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    form = form_of(problem.symbol)
    return form.refusal(target) or row_refusal(form.block(problem["x"].shape[-1]), point["num_warps"], target)


def _default(problem: Problem, target: Target) -> Point:
    return {"num_warps": row_warps(form_of(problem.symbol).block(problem["x"].shape[-1]), target)}


TUNING = GpuTuning(_parameters, _refusal, _default)
