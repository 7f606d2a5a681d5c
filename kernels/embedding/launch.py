"""From a call of embedding to its launch."""

from __future__ import annotations

from kernels.gpu.launch import Constant, Launch, OpPlan, Problem, Ptr, RuntimeArgument
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    out = problem["out"]
    num_tokens, width = out.shape
    table = "codes" if "codes" in problem else "weight"
    arguments: dict[str, RuntimeArgument] = {"token_ids_ptr": Ptr("token_ids"), "weight_ptr": Ptr(table), "out_ptr": Ptr("out")}
    constants: dict[str, Constant] = {
        "V": problem[table].shape[0],
        "H": width,
        "WEIGHT_STRIDE": problem[table].strides[0],
        "OUT_STRIDE": out.strides[0],
        "BLOCK": point["block"],
    }
    if "scales" in problem:
        arguments["scales_ptr"] = Ptr("scales")
    else:
        constants["scales_ptr"] = None
    launch = Launch(
        "embedding",
        "embedding_kernel",
        (num_tokens, -(-width // point["block"]), 1),
        arguments,
        constants,
        point["num_warps"],
        num_stages=1,
    )
    return OpPlan((launch,))
