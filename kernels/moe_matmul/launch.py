"""From a call of moe_matmul to its launch."""

from __future__ import annotations

from kernels.gpu.launch import DTYPES, I32, Constant, Launch, OpPlan, Problem, Ptr, RuntimeArgument
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point
from kernels.moe_route.launch import max_blocks
from kernels.scaled_matmul.variants import VARIANTS

_SCALING = {"w16": "none", "w8": "channel", "int8": "channel", "e4m3": "channel", "e4m3_block": "block"}


def is_float4(symbol: str) -> bool:
    """Whether weights are e2m1 codes."""
    return symbol.endswith("fp4")


def in_fragments(symbol: str) -> bool:
    """Whether weights are 4-bit codes, in the order of fragments: then the rows of a tile are of the point."""
    return is_float4(symbol) or symbol.startswith("gpu_moe_matmul_int4")


def is_widened(problem: Problem) -> bool:
    """Whether codes of weights become numbers of x's dtype."""
    return "x" in problem and "codes" in problem


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    if problem.symbol == "gpu_moe_sum":
        return OpPlan((_sum(problem, point),))
    x, top_k = problem["x" if "x" in problem else "x_codes"], problem["out"].shape[1]
    if x.shape[1] not in (1, top_k):
        raise ValueError(f"a token has one row of x or one for each of its {top_k} experts; x has {x.shape[1]}")
    return OpPlan(((_fragments if in_fragments(problem.symbol) else _matmul)(problem, point, target),))


def _matmul(problem: Problem, point: Point, target: Target) -> Launch:
    variant = problem.symbol.removeprefix("gpu_moe_matmul_")
    x_name, weight_name = "x" if "x" in problem else "x_codes", "weight" if "weight" in problem else "codes"
    _, n, k = problem[weight_name].shape
    block_m, block_n, block_k = problem["sorted_ids"].shape[1], point["block_n"], point["block_k"]
    arguments, constants = _routed(problem, x_name)
    arguments["weight_ptr"] = Ptr(weight_name)
    constants |= {
        "N": n,
        "K": k,
        "SCALING": _SCALING[variant],
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "GROUP_M": point["group_m"],
        "SWAP": bool(point.get("swap", 0)),
        "X_SCALES_STRIDE": problem["x_scales"].strides[0] if "x_scales" in problem else 0,
    }
    for name in ("x_scales", "scales", "topk_weights"):
        _optional(problem, name, arguments, constants)
    # What came later is left out where it is not needed: kernels of older bundles are found by the constants that they have.
    if "bias" in problem:
        arguments["bias_ptr"] = Ptr("bias")
    if variant == "w8":
        constants["ASM"] = target.arch.backend == "cuda"
    element_bytes = [DTYPES[problem[name].dtype][0] for name in (x_name, weight_name)]
    return Launch(
        "moe_matmul",
        "moe_matmul_kernel",
        _grid(problem, block_m, block_n),
        arguments,
        constants,
        point["num_warps"],
        point["num_stages"],
        streamed_bytes=(block_m * element_bytes[0] + block_n * element_bytes[1]) * block_k,
    )


def _fragments(problem: Problem, point: Point, target: Target) -> Launch:
    k, is_float = problem["x"].shape[2], is_float4(problem.symbol)
    block_m, block_n, block_k = point["block_m"], point["block_n"], point["block_k"]
    arguments, constants = _routed(problem, "x")
    arguments |= {"codes_ptr": Ptr("codes"), "width": I32(k)}
    constants |= {
        "N": problem["out"].shape[2],
        "K": k,
        "ALIGNED": problem["sorted_ids"].shape[1],
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "GROUP_M": point["group_m"],
        # AMD's compiler knows no PTX.
        "ASM": target.arch.backend == "cuda",
    }
    if is_float:
        arguments["local_scales_ptr"] = Ptr("scales")
        bits = VARIANTS[f"gpu_scaled_matmul_{problem.symbol.removeprefix('gpu_moe_matmul_')}"].weight_bits
        streamed_bytes = int(block_n * block_k * bits / 8)
    else:
        groups = problem["scales"].shape[2]
        arguments["scales_ptr"] = Ptr("scales")
        constants |= {"GROUP_SIZE": k // groups, "NUM_STAGES": point["num_stages"]}
        streamed_bytes = block_n * block_k // 2 + (4 if "zeros" in problem else 2) * block_n * block_k * groups // k
    for name in ("row_scales" if is_float else "zeros", "bias", "topk_weights"):
        _optional(problem, name, arguments, constants)
    return Launch(
        "moe_matmul",
        f"moe_matmul_{'float4' if is_float else 'int4'}_kernel",
        _grid(problem, block_m, block_n),
        arguments,
        constants,
        point["num_warps"],
        point["num_stages"],
        streamed_bytes=streamed_bytes,
    )


def _routed(problem: Problem, x_name: str) -> tuple[dict[str, RuntimeArgument], dict[str, Constant]]:
    """What all grouped matmuls take: tokens, their alignment and where results go."""
    x, out = problem[x_name], problem["out"]
    arguments: dict[str, RuntimeArgument] = {
        "x_ptr": Ptr(x_name),
        **{f"{name}_ptr": Ptr(name) for name in ("sorted_ids", "expert_ids", "num_padded", "out")},
        "num_pairs": I32(out.shape[0] * out.shape[1]),
    }
    constants: dict[str, Constant] = {
        "TOP_K": out.shape[1],
        "X_ROWS": x.shape[1],
        "X_STRIDE": x.strides[0],
        "OUT_STRIDE": out.strides[0],
        "TOPK_WEIGHTS_STRIDE": problem["topk_weights"].strides[0] if "topk_weights" in problem else 0,
    }
    return arguments, constants


def _grid(problem: Problem, block_m: int, block_n: int) -> tuple[int, int, int]:
    """Programs for every tile that an alignment can have in use."""
    (tokens, top_k, n), aligned = problem["out"].shape, problem["sorted_ids"].shape[1]
    experts = problem["weight" if "weight" in problem else "codes"].shape[0]
    return max_blocks(tokens * top_k, experts, aligned) * (aligned // block_m) * -(-n // block_n), 1, 1


def _optional(problem: Problem, name: str, arguments: dict[str, RuntimeArgument], constants: dict[str, Constant]) -> None:
    if name in problem:
        arguments[f"{name}_ptr"] = Ptr(name)
    else:
        constants[f"{name}_ptr"] = None


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
