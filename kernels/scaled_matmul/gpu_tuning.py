"""The tile, how K is split, and in which order and by which means tiles are fetched.

BLOCK_M x BLOCK_N tokens x channels of a program, BLOCK_K of K at a time; SPLIT_K programs share a tile; GROUP_M rows of tiles are taken
together; PERSISTENT programs per SM walk over all tiles (0: a program per tile); USE_TMA fetches by descriptors; SWAP_AB makes the
weight the left operand of the matrix instruction, which has 64 rows on sm_90 while tokens may be as few as 16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil

from kernels.gpu.launch import DTYPES, Problem
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point
from kernels.scaled_matmul.variants import BLOCK_WIDTH, MX_WIDTH, VARIANTS

#: Sums of splits may take so much memory.
_MAX_PARTIAL_BYTES = 256 * 2**20
#: fp32 accumulators of a thread: the rest of its 255 registers holds operands and addresses.
_MAX_ACCUMULATORS = 128


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    return {
        "BLOCK_M": (16, 32, 64, 128, 256),
        "BLOCK_N": (32, 64, 128, 256),
        "BLOCK_K": (32, 64, 128, 256),
        "SPLIT_K": (1, 2, 3, 4, 6, 8, 12, 16),
        "GROUP_M": (1, 8, 16, 32, 64),
        "PERSISTENT": (0, 1, 2),
        "USE_TMA": (0, 1),
        "SWAP_AB": (0, 1),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4, 5),
    }


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    return next((reason for rule in (_of_problem, _of_tile, _of_grid) for reason in rule(problem, point, target)), None)


def _of_problem(problem: Problem, point: Point, target: Target) -> Iterator[str]:
    variant = VARIANTS[problem.symbol]
    width = problem[variant.x].shape[1]
    multiple = MX_WIDTH if variant.scaling == "mx" else 16
    if width % multiple:
        yield f"K must be a multiple of {multiple}, got {width}; pad it with zeros"
    if variant.dtype == "e4m3" and not target.arch.has_fp8:
        yield f"{target.arch.name} does not multiply e4m3; use int8"


def _of_tile(problem: Problem, point: Point, target: Target) -> Iterator[str]:
    variant = VARIANTS[problem.symbol]
    x, weight = problem[variant.x], problem[variant.weight]
    if variant.scaling == "block" and point["BLOCK_K"] > BLOCK_WIDTH:
        yield f"BLOCK_K of {point['BLOCK_K']} has several scales; at most {BLOCK_WIDTH} has one"
    accumulators = point["BLOCK_M"] * point["BLOCK_N"] // (point["num_warps"] * target.arch.warp_size)
    if accumulators > _MAX_ACCUMULATORS:
        yield f"{accumulators} accumulators of a thread leave no registers; at most {_MAX_ACCUMULATORS}"
    if (shared := shared_bytes(problem, point)) > target.arch.max_shared_bytes:
        yield f"{point['num_stages']} stages take {shared} bytes of shared memory; {target.arch.name} has {target.arch.max_shared_bytes}"
    if point["USE_TMA"]:
        strides = (tensor.strides[0] * DTYPES[tensor.dtype][0] for tensor in (x, weight))
        if not target.arch.has_tma:
            yield f"{target.arch.name} has no TMA"
        elif any(stride % 16 for stride in strides):
            yield "TMA needs rows that are multiples of 16 bytes apart"


def _of_grid(problem: Problem, point: Point, target: Target) -> Iterator[str]:
    variant = VARIANTS[problem.symbol]
    (num_tokens, width), num_channels = problem[variant.x].shape, problem[variant.weight].shape[0]
    rows, columns = ceil(num_tokens / point["BLOCK_M"]), ceil(num_channels / point["BLOCK_N"])
    blocks, split_k = ceil(width / point["BLOCK_K"]), point["SPLIT_K"]
    if ceil(blocks / ceil(blocks / split_k)) != split_k:
        yield f"{blocks} blocks of K leave one of {split_k} splits empty"
    if split_k > 1 and split_k * num_tokens * num_channels * 4 > _MAX_PARTIAL_BYTES:
        yield f"the sums of {split_k} splits take more than {_MAX_PARTIAL_BYTES} bytes"
    if point["GROUP_M"] > 1 and point["GROUP_M"] // 2 >= max(rows, 1):
        yield f"GROUP_M of {point['GROUP_M']} does not differ from half of it for {rows} rows of tiles"
    if point["PERSISTENT"] and split_k > 1:
        yield "splitting K is for few tiles, persistent programs for many: one of them"
    if point["PERSISTENT"] and rows * columns <= target.num_sms * point["PERSISTENT"]:
        yield f"{rows * columns} tiles do not keep {point['PERSISTENT']} programs per SM busy"


def shared_bytes(problem: Problem, point: Point) -> int:
    """Shared memory of the tiles in flight; an upper bound of what the compiler asks for."""
    variant = VARIANTS[problem.symbol]
    x, weight = problem[variant.x], problem[variant.weight]
    stage = point["BLOCK_M"] * point["BLOCK_K"] * DTYPES[x.dtype][0]
    stage += point["BLOCK_N"] * point["BLOCK_K"] // variant.pack * DTYPES[weight.dtype][0]
    return stage * point["num_stages"]


def _default(problem: Problem, target: Target) -> Point:
    variant = VARIANTS[problem.symbol]
    (num_tokens, width), num_channels = problem[variant.x].shape, problem[variant.weight].shape[0]
    few = num_tokens <= 64
    point = {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 128, "SPLIT_K": 1, "GROUP_M": 1, "PERSISTENT": 0}
    point |= {"USE_TMA": 0, "SWAP_AB": 1, "num_warps": 4, "num_stages": 4}
    if few:
        point["BLOCK_M"] = next(tokens for tokens in (16, 32, 64) if num_tokens <= tokens)
    else:
        point |= {"BLOCK_M": 128, "BLOCK_N": 128, "num_warps": 8, "num_stages": 3, "SWAP_AB": 0}
        point |= {"USE_TMA": int(target.arch.has_tma), "GROUP_M": 8 if num_tokens > 4 * 128 else 1}
    return point


TUNING = GpuTuning(_parameters, _refusal, _default)
