"""From a call of scaled_add to its launch."""

from __future__ import annotations

from kernels.gpu.launch import F32, Launch, OpPlan, Problem, Ptr, RuntimeArgument
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    stream, x, block = problem["stream"], problem["x"], point["block"]
    num_tokens, width = stream.shape
    arguments: dict[str, RuntimeArgument] = {
        "stream_ptr": Ptr("stream"),
        "x_ptr": Ptr("x"),
        "factor": F32(float(problem.scalars["factor"])),
    }
    constants = {"D": width, "STREAM_STRIDE": stream.strides[0], "X_STRIDE": x.strides[0], "BLOCK": block}
    grid = (num_tokens, -(-width // block), 1)
    return OpPlan((Launch("scaled_add", "scaled_add_kernel", grid, arguments, constants, point["num_warps"], num_stages=1),))
