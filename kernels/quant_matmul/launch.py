"""From a call of quant_matmul to its launches: one product, or SPLIT_K partial products and their sum."""

from __future__ import annotations

from kernels.gpu.launch import I32, Constant, Launch, OpPlan, Problem, Ptr, RuntimeArgument, TensorMeta
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point

_REDUCED_COLUMNS = 512


def group_size(problem: Problem) -> int:
    """Columns that share a scale, of an int4 call."""
    return problem["x"].shape[1] // problem["scales"].shape[1]


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    (num_tokens, n), k = problem["out"].shape, problem["x"].shape[1]
    block_m, block_n, block_k, split_k = (point[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "SPLIT_K"))
    arguments: dict[str, RuntimeArgument] = {
        "x_ptr": Ptr("x"),
        "codes_ptr": Ptr("codes"),
        "scales_ptr": Ptr("scales"),
        "num_tokens": I32(num_tokens),
    }
    constants: dict[str, Constant] = {"N": n, "K": k, "X_STRIDE": problem["x"].strides[0]}
    constants |= {name: value for name, value in point.items() if name.isupper()}
    # AMD's compiler knows no PTX.
    constants["ASM"] = target.arch.backend == "cuda"

    streamed = block_n * block_k
    if problem.symbol != "gpu_quant_matmul_int8":
        group = group_size(problem)
        streamed = block_n * block_k // 2 + (4 if "zeros" in problem else 2) * block_n * block_k // group
        constants |= {"GROUP_SIZE": group, "NUM_STAGES": point["num_stages"]}
        _optional(problem, "zeros", arguments, constants)

    if split_k == 1:
        arguments["out_ptr"] = Ptr("out")
        constants["OUT_STRIDE"] = problem["out"].strides[0]
        _optional(problem, "bias", arguments, constants)
    else:
        arguments["out_ptr"] = Ptr("partials")
        constants |= {"OUT_STRIDE": n, "bias_ptr": None}
    tiles = -(-num_tokens // block_m) * -(-n // block_n)
    product = Launch(
        "quant_matmul",
        f"quant_matmul_{'int8' if problem.symbol == 'gpu_quant_matmul_int8' else 'int4'}_kernel",
        (tiles, split_k, 1),
        arguments,
        constants,
        point["num_warps"],
        point["num_stages"],
        streamed_bytes=streamed,
    )
    if split_k == 1:
        return OpPlan((product,))
    workspaces = {"partials": TensorMeta.contiguous("f32", split_k, num_tokens, n)}
    return OpPlan((product, _reduction(problem, split_k)), workspaces)


def _reduction(problem: Problem, split_k: int) -> Launch:
    num_tokens, n = problem["out"].shape
    arguments: dict[str, RuntimeArgument] = {
        "partials_ptr": Ptr("partials"),
        "out_ptr": Ptr("out"),
        "num_tokens": I32(num_tokens),
    }
    constants: dict[str, Constant] = {
        "N": n,
        "OUT_STRIDE": problem["out"].strides[0],
        "SPLIT_K": split_k,
        "BLOCK": _REDUCED_COLUMNS,
    }
    _optional(problem, "bias", arguments, constants)
    grid = (num_tokens, -(-n // _REDUCED_COLUMNS), 1)
    return Launch("quant_matmul", "reduce_splits_kernel", grid, arguments, constants, num_warps=4, num_stages=1)


def _optional(problem: Problem, name: str, arguments: dict[str, RuntimeArgument], constants: dict[str, Constant]) -> None:
    if name in problem:
        arguments[f"{name}_ptr"] = Ptr(name)
    else:
        constants[f"{name}_ptr"] = None
