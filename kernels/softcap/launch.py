"""From a call of softcap to its launch."""

from __future__ import annotations

from kernels.gpu.launch import F32, Launch, OpPlan, Problem, Ptr, RuntimeArgument
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    x, block = problem["x"], point["block"]
    num_rows, width = x.shape
    arguments: dict[str, RuntimeArgument] = {"x_ptr": Ptr("x"), "softcap": F32(float(problem.scalars["softcap"]))}
    constants = {"V": width, "X_STRIDE": x.strides[0], "BLOCK": block}
    grid = (num_rows, -(-width // block), 1)
    return OpPlan((Launch("softcap", "softcap_kernel", grid, arguments, constants, point["num_warps"], num_stages=1),))
