"""From a call of quantize_activations to its launch."""

from __future__ import annotations

from kernels.gpu.launch import Launch, OpPlan, Problem, Ptr
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point
from kernels.quantize_activations.gpu_tuning import block
from kernels.quantize_activations.output import form_of


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    x, columns = problem["x"], block(problem, point)
    num_tokens, width = x.shape
    arguments, constants = form_of(problem.symbol).launch_arguments(problem)
    launch = Launch(
        "quantize_activations",
        "quantize_activations_kernel",
        (num_tokens, -(-width // columns), 1),
        {"x_ptr": Ptr("x"), **arguments},
        {"K": width, "X_STRIDE": x.strides[0], "BLOCK": columns, **constants},
        point["num_warps"],
        num_stages=1,
    )
    return OpPlan((launch,))
