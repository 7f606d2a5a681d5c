"""From a call of relu_squared to its launch."""

from __future__ import annotations

from kernels.gpu.launch import Launch, OpPlan, Problem, Ptr
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    x, out = problem["x"], problem["out"]
    num_tokens, width = x.shape
    launch = Launch(
        "relu_squared",
        "relu_squared_kernel",
        (num_tokens, -(-width // point["block"]), 1),
        {"x_ptr": Ptr("x"), "out_ptr": Ptr("out")},
        {"F": width, "X_STRIDE": x.strides[0], "OUT_STRIDE": out.strides[0], "BLOCK": point["block"]},
        point["num_warps"],
        num_stages=1,
    )
    return OpPlan((launch,))
