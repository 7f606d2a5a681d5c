"""From a call of rms_norm to its launch."""

from __future__ import annotations

from kernels.gpu.launch import F32, Constant, Launch, OpPlan, Problem, Ptr, RuntimeArgument
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point
from kernels.quantize_activations.output import form_of


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    x, form = problem["x"], form_of(problem.symbol)
    num_tokens, *groups, width = x.shape
    outputs, form_constants = form.launch_arguments(problem)
    arguments: dict[str, RuntimeArgument] = {"x_ptr": Ptr("x"), "weight_ptr": Ptr("weight"), **outputs}
    constants: dict[str, Constant] = {"D": width, "X_STRIDE": x.strides[0], "BLOCK_D": form.block(width), **form_constants}
    if "residual" in problem:
        arguments["residual_ptr"] = Ptr("residual")
        constants["RESIDUAL_STRIDE"] = problem["residual"].strides[0]
    else:
        constants |= {"residual_ptr": None, "RESIDUAL_STRIDE": 0}
    arguments["eps"] = F32(float(problem.scalars["eps"]))
    grid = (num_tokens, groups[0] if groups else 1, 1)
    launch = Launch("rms_norm", "rms_norm_kernel", grid, arguments, constants, point["num_warps"], num_stages=1)
    return OpPlan((launch,))
