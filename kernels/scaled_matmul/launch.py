"""From a call of scaled_matmul to its launches: the tiles and, where K is split, the sum of the splits."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TypeAlias

from kernels.gpu.launch import I32, Constant, Descriptor, Launch, OpPlan, Problem, Ptr, RuntimeArgument, TensorMeta
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point
from kernels.scaled_matmul.variants import VARIANTS

#: Channels that one program adds the splits of.
_SUM_BLOCK_N = 256

#: Runtime arguments and constants of a kernel.
Parameters: TypeAlias = tuple[Mapping[str, RuntimeArgument], Mapping[str, Constant]]


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    variant, out = VARIANTS[problem.symbol], problem["out"]
    (num_tokens, num_channels), split_k = out.shape, point["SPLIT_K"]
    tiles = ceil(num_tokens / point["BLOCK_M"]) * ceil(num_channels / point["BLOCK_N"])
    programs = min(tiles, target.num_sms * point["PERSISTENT"]) if point["PERSISTENT"] else tiles
    finish, finish_constants = _finish(problem)
    operands, operand_constants = (_float4 if variant.is_float4 else _scaled)(problem, point, target)
    tile = {name: point[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "SPLIT_K", "GROUP_M")}
    matmul = Launch(
        "scaled_matmul",
        "float4_matmul_kernel" if variant.is_float4 else "scaled_matmul_kernel",
        (programs, split_k, 1),
        {**finish, **operands, "out_ptr": Ptr("out" if split_k == 1 else "partials")},
        {**finish_constants, **operand_constants, **tile, "PERSISTENT": bool(point["PERSISTENT"])},
        point["num_warps"],
        point["num_stages"],
        # The weight alone: x is read by all programs, so it comes from the L2 cache.
        streamed_bytes=int(point["BLOCK_N"] * point["BLOCK_K"] * variant.weight_bits / 8),
    )
    if split_k == 1:
        return OpPlan((matmul,))
    total = Launch(
        "scaled_matmul",
        "sum_splits_kernel",
        (num_tokens, ceil(num_channels / _SUM_BLOCK_N), 1),
        {**finish, "partials_ptr": Ptr("partials"), "out_ptr": Ptr("out")},
        {**finish_constants, "SPLIT_K": split_k, "BLOCK_N": _SUM_BLOCK_N},
    )
    partials = TensorMeta.contiguous("i32" if variant.integer else "f32", split_k, num_tokens, num_channels)
    return OpPlan((matmul, total), {"partials": partials})


def _finish(problem: Problem) -> Parameters:
    """What every kernel takes that turns sums into results."""
    scaling = VARIANTS[problem.symbol].scaling
    # The scales of groups of 4-bit codes are spent before the sum.
    constants: dict[str, Constant] = {"SCALING": {"mx": "none", "nv": "rows"}.get(scaling, scaling)}
    arguments: dict[str, RuntimeArgument] = {"num_tokens": I32(problem["out"].shape[0])}
    constants |= {"N": problem["out"].shape[1], "OUT_STRIDE": problem["out"].strides[0]}
    scales = "row_scales" if VARIANTS[problem.symbol].is_float4 else "scales"
    for parameter, tensor in (("x_scales", "x_scales"), ("scales", scales), ("bias", "bias")):
        if tensor in problem:
            arguments[f"{parameter}_ptr"] = Ptr(tensor)
        else:
            constants[f"{parameter}_ptr"] = None
    return arguments, constants


def _scaled(problem: Problem, point: Point, target: Target) -> Parameters:
    variant = VARIANTS[problem.symbol]
    x, weight = problem[variant.x], problem[variant.weight]
    arguments: dict[str, RuntimeArgument] = {"width": I32(x.shape[1]), "x": Ptr(variant.x), "weight": Ptr(variant.weight)}
    if point["USE_TMA"]:
        arguments["x"] = Descriptor(variant.x, x.shape, x.strides, (point["BLOCK_M"], point["BLOCK_K"]))
        arguments["weight"] = Descriptor(variant.weight, weight.shape, weight.strides, (point["BLOCK_N"], point["BLOCK_K"]))
    constants: dict[str, Constant] = {
        "K": x.shape[1],
        "X_STRIDE": x.strides[0],
        "X_SCALES_STRIDE": problem["x_scales"].strides[0] if variant.scaling == "block" else 0,
        "INTEGER": variant.integer,
        "USE_TMA": bool(point["USE_TMA"]),
        "SWAP_AB": bool(point["SWAP_AB"]),
        "STAGES": point["num_stages"],
    }
    return arguments, constants


def _float4(problem: Problem, point: Point, target: Target) -> Parameters:
    x = problem["x"]
    names = {"x_ptr": "x", "codes_ptr": "codes", "local_scales_ptr": "scales"}
    arguments: dict[str, RuntimeArgument] = {name: Ptr(tensor) for name, tensor in names.items()}
    arguments["width"] = I32(x.shape[1])
    return arguments, {"K": x.shape[1], "X_STRIDE": x.strides[0], "ASM": target.arch.backend == "cuda"}
