"""From a call of moe_matmul to its launch."""

from __future__ import annotations

from kernels.gpu.launch import DTYPES, I32, Constant, Launch, OpPlan, Problem, Ptr, RuntimeArgument
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point
from kernels.moe_route.launch import max_blocks

_SCALING = {"w16": "none", "int8": "channel", "e4m3": "channel", "e4m3_block": "block"}


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    return OpPlan((_sum(problem, point) if problem.symbol == "gpu_moe_sum" else _matmul(problem, point),))


def _matmul(problem: Problem, point: Point) -> Launch:
    variant = problem.symbol.removeprefix("gpu_moe_matmul_")
    x_name, weight_name = ("x", "weight") if variant == "w16" else ("x_codes", "codes")
    x, out, (experts, n, k) = problem[x_name], problem["out"], problem[weight_name].shape
    tokens, top_k, _ = out.shape
    if x.shape[1] not in (1, top_k):
        raise ValueError(f"a token has one row of x or one for each of its {top_k} experts; x has {x.shape[1]}")
    block_m, block_n = problem["sorted_ids"].shape[1], point["block_n"]
    arguments: dict[str, RuntimeArgument] = {
        "x_ptr": Ptr(x_name),
        "weight_ptr": Ptr(weight_name),
        "sorted_ids_ptr": Ptr("sorted_ids"),
        "expert_ids_ptr": Ptr("expert_ids"),
        "num_padded_ptr": Ptr("num_padded"),
        "out_ptr": Ptr("out"),
        "num_pairs": I32(tokens * top_k),
    }
    constants: dict[str, Constant] = {
        "N": n,
        "K": k,
        "TOP_K": top_k,
        "X_ROWS": x.shape[1],
        "X_STRIDE": x.strides[0],
        "OUT_STRIDE": out.strides[0],
        "SCALING": _SCALING[variant],
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": point["block_k"],
        "GROUP_M": point["group_m"],
        "SWAP": bool(point["swap"]),
    }
    for name in ("x_scales", "scales", "topk_weights"):
        if name in problem:
            arguments[f"{name}_ptr"] = Ptr(name)
        else:
            constants[f"{name}_ptr"] = None
    if "bias" in problem:
        arguments["bias_ptr"] = Ptr("bias")
    for name in ("x_scales", "topk_weights"):
        constants[f"{name.upper()}_STRIDE"] = problem[name].strides[0] if name in problem else 0
    return Launch(
        "moe_matmul",
        "moe_matmul_kernel",
        (max_blocks(tokens * top_k, experts, block_m) * -(-n // block_n), 1, 1),
        arguments,
        constants,
        point["num_warps"],
        point["num_stages"],
        streamed_bytes=(block_m + block_n) * point["block_k"] * DTYPES[x.dtype][0],
    )


def _sum(problem: Problem, point: Point) -> Launch:
    x, out = problem["x"], problem["out"]
    tokens, top_k, n = x.shape
    arguments: dict[str, RuntimeArgument] = {"x_ptr": Ptr("x"), "out_ptr": Ptr("out")}
    constants: dict[str, Constant] = {
        "TOP_K": top_k,
        "N": n,
        "X_STRIDE": x.strides[0],
        "OUT_STRIDE": out.strides[0],
        "BLOCK_N": point["block_n"],
    }
    if "shared" in problem:
        arguments["shared_ptr"] = Ptr("shared")
        constants["SHARED_STRIDE"] = problem["shared"].strides[0]
    else:
        constants |= {"shared_ptr": None, "SHARED_STRIDE": 0}
    grid = (tokens, -(-n // point["block_n"]), 1)
    return Launch("moe_matmul", "moe_sum_kernel", grid, arguments, constants, point["num_warps"], num_stages=1)
