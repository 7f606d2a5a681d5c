"""From a call of scaled_matmul to its launches: the tiles and, where K is split, the sum of the splits."""

from __future__ import annotations

from math import ceil

from kernels.gpu.launch import DTYPES, I32, Constant, Descriptor, Launch, OpPlan, Problem, Ptr, RuntimeArgument, TensorMeta
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point
from kernels.scaled_matmul.variants import VARIANTS

#: Channels that one program adds the splits of.
_SUM_BLOCK_N = 256


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    variant, out = VARIANTS[problem.symbol], problem["out"]
    x, weight = problem[variant.x], problem[variant.weight]
    (num_tokens, width), num_channels, split_k = x.shape, weight.shape[0], point["SPLIT_K"]

    finish: dict[str, RuntimeArgument] = {"num_tokens": I32(num_tokens)}
    finish_constants: dict[str, Constant] = {"N": num_channels, "SCALING": variant.scaling, "SPLIT_K": split_k}
    for tensor in ("x_scales", "scales", "bias"):
        if tensor in problem:
            finish[f"{tensor}_ptr"] = Ptr(tensor)
        else:
            finish_constants[f"{tensor}_ptr"] = None

    tiles = ceil(num_tokens / point["BLOCK_M"]) * ceil(num_channels / point["BLOCK_N"])
    num_programs = min(tiles, target.num_sms * point["PERSISTENT"]) if point["PERSISTENT"] else tiles
    tile = {name: point[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M")}
    flags = {name: bool(point[name]) for name in ("PERSISTENT", "USE_TMA", "SWAP_AB")}
    matmul = Launch(
        "scaled_matmul",
        "scaled_matmul_kernel",
        (num_programs, split_k, 1),
        {
            **finish,
            "width": I32(width),
            "x": _operand(variant.x, x, (point["BLOCK_M"], point["BLOCK_K"]), flags["USE_TMA"]),
            "weight": _operand(variant.weight, weight, (point["BLOCK_N"], point["BLOCK_K"] // variant.pack), flags["USE_TMA"]),
            "out_ptr": Ptr("out" if split_k == 1 else "partials"),
        },
        {
            **finish_constants,
            **tile,
            **flags,
            "K": width,
            "X_STRIDE": x.strides[0],
            "X_SCALES_STRIDE": problem["x_scales"].strides[0] if variant.scaling == "block" else 0,
            "OUT_STRIDE": out.strides[0],
            "INTEGER": variant.integer,
        },
        point["num_warps"],
        point["num_stages"],
        # The weight alone: x is read by all programs, so it comes from the L2 cache.
        streamed_bytes=point["BLOCK_N"] * point["BLOCK_K"] // variant.pack * DTYPES[weight.dtype][0],
    )
    if split_k == 1:
        return OpPlan((matmul,))
    total = Launch(
        "scaled_matmul",
        "sum_splits_kernel",
        (num_tokens, ceil(num_channels / _SUM_BLOCK_N), 1),
        {**finish, "partials_ptr": Ptr("partials"), "out_ptr": Ptr("out")},
        {**finish_constants, "OUT_STRIDE": out.strides[0], "BLOCK_N": _SUM_BLOCK_N},
    )
    partials = TensorMeta.contiguous("i32" if variant.integer else "f32", split_k, num_tokens, num_channels)
    return OpPlan((matmul, total), {"partials": partials})


def _operand(name: str, meta: TensorMeta, block_shape: tuple[int, int], use_tma: bool) -> RuntimeArgument:
    return Descriptor(name, meta.shape, meta.strides, block_shape) if use_tma else Ptr(name)
