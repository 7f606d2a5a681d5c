"""From a call of gather_rows to its launch."""

from __future__ import annotations

from kernels.gpu.launch import I32, Launch, OpPlan, Problem, Ptr
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    x, out = problem["x"], problem["out"]
    num_rows, width = out.shape
    launch = Launch(
        "gather_rows",
        "gather_rows_kernel",
        (num_rows, -(-width // point["block"]), 1),
        {"x_ptr": Ptr("x"), "rows_ptr": Ptr("rows"), "out_ptr": Ptr("out"), "num_tokens": I32(x.shape[0])},
        {"H": width, "X_STRIDE": x.strides[0], "OUT_STRIDE": out.strides[0], "BLOCK": point["block"]},
        point["num_warps"],
        num_stages=1,
    )
    return OpPlan((launch,))
