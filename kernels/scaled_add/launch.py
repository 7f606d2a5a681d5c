"""From a call of scaled_add or scaled_sum to its launch."""

from __future__ import annotations

from kernels.gpu.launch import F32, Constant, Launch, OpPlan, Problem, Ptr, RuntimeArgument
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    stream, block = problem["stream"], point["block"]
    num_tokens, width = stream.shape
    arguments: dict[str, RuntimeArgument] = {"stream_ptr": Ptr("stream")}
    constants: dict[str, Constant] = {"D": width, "STREAM_STRIDE": stream.strides[0], "BLOCK": block}
    if "x" in problem:
        arguments["x_ptr"] = Ptr("x")
        constants["X_STRIDE"] = problem["x"].strides[0]
    else:
        constants |= {"x_ptr": None, "X_STRIDE": 0}
    if "scale" in problem:
        function, arguments["scale_ptr"] = "scaled_sum_kernel", Ptr("scale")
    else:
        function, arguments["factor"] = "scaled_add_kernel", F32(float(problem.scalars["factor"]))
    grid = (num_tokens, -(-width // block), 1)
    return OpPlan((Launch("scaled_add", function, grid, arguments, constants, point["num_warps"], num_stages=1),))
