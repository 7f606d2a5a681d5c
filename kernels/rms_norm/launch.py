"""From a call of rms_norm to its launch."""

from __future__ import annotations

from kernels.gpu.launch import F32, Constant, Launch, OpPlan, Problem, Ptr, RuntimeArgument
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    x, out = problem["x"], problem["out"]
    num_tokens, num_groups, width = x.shape
    arguments: dict[str, RuntimeArgument] = {"x_ptr": Ptr("x"), "weight_ptr": Ptr("weight"), "out_ptr": Ptr("out")}
    constants: dict[str, Constant] = {
        "G": num_groups,
        "D": width,
        "X_STRIDE": x.strides[0],
        "OUT_STRIDE": out.strides[0],
        "BLOCK_D": 1 << (width - 1).bit_length(),
    }
    if "residual" in problem:
        arguments["residual_ptr"] = Ptr("residual")
        constants["RESIDUAL_STRIDE"] = problem["residual"].strides[0]
    else:
        constants |= {"residual_ptr": None, "RESIDUAL_STRIDE": 0}
    arguments["eps"] = F32(float(problem.scalars["eps"]))
    launch = Launch(
        "rms_norm", "rms_norm_kernel", (num_tokens, num_groups, 1), arguments, constants, point["num_warps"], num_stages=1
    )
    return OpPlan((launch,))
