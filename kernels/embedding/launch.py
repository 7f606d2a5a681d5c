"""From a call of embedding to its launch."""

from __future__ import annotations

from typing import TypeAlias

from kernels.gpu.launch import Constant, Launch, OpPlan, Problem, Ptr, RuntimeArgument
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point

#: The function, its arguments and its constants, without those of tokens and out.
_Parts: TypeAlias = tuple[str, dict[str, RuntimeArgument], dict[str, Constant]]


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    function, arguments, constants = _int4(problem) if "int4" in problem.symbol else _rows(problem)
    out = problem["out"]
    num_tokens, width = out.shape
    launch = Launch(
        "embedding",
        function,
        (num_tokens, -(-width // point["block"]), 1),
        {"token_ids_ptr": Ptr("token_ids"), "out_ptr": Ptr("out"), **arguments},
        {"H": width, "OUT_STRIDE": out.strides[0], "BLOCK": point["block"], **constants},
        point["num_warps"],
        num_stages=1,
    )
    return OpPlan((launch,))


def _rows(problem: Problem) -> _Parts:
    table = "codes" if "codes" in problem else "weight"
    arguments: dict[str, RuntimeArgument] = {"weight_ptr": Ptr(table)}
    constants: dict[str, Constant] = {"V": problem[table].shape[0], "WEIGHT_STRIDE": problem[table].strides[0]}
    if "scales" in problem:
        arguments["scales_ptr"] = Ptr("scales")
    else:
        constants["scales_ptr"] = None
    return "embedding_kernel", arguments, constants


def _int4(problem: Problem) -> _Parts:
    num_tiles, num_chunks, _ = problem["codes"].shape
    arguments: dict[str, RuntimeArgument] = {"codes_ptr": Ptr("codes"), "scales_ptr": Ptr("scales")}
    constants: dict[str, Constant] = {
        "NUM_TILES": num_tiles,
        "NUM_CHUNKS": num_chunks,
        "NUM_GROUPS": problem["scales"].shape[1],
    }
    if "zeros" in problem:
        arguments["zeros_ptr"] = Ptr("zeros")
    else:
        constants["zeros_ptr"] = None
    return "embedding_int4_kernel", arguments, constants
