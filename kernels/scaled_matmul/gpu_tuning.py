"""The tile, how K is split, and in which order and by which means tiles are fetched.

BLOCK_M x BLOCK_N tokens x channels of a program, BLOCK_K of K at a time; SPLIT_K programs share a tile; GROUP_M rows of tiles
are taken together; PERSISTENT programs per SM walk over all tiles (0: a program per tile); USE_TMA fetches by descriptors;
SWAP_AB makes the weight the left operand of the matrix instruction, which has 64 rows on sm_90 while tokens may be 16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil

from kernels.gpu.launch import DTYPES, Problem
from kernels.gpu.target import Arch, Target
from kernels.gpu.tuning import GpuTuning, Point
from kernels.scaled_matmul.variants import BLOCK_WIDTH, VARIANTS

#: Sums of splits may take so much memory.
_MAX_PARTIAL_BYTES = 256 * 2**20
#: fp32 accumulators of a thread: the rest of its 255 registers holds operands and addresses.
_MAX_ACCUMULATORS = 128
#: Barriers, and what alignment costs.
_SHARED_EXTRA_BYTES = 1024
#: Splits of K, the most first.
_SPLITS = (16, 12, 8, 6, 4, 3, 2, 1)


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    return {
        "BLOCK_M": (16, 32, 64, 128, 256),
        "BLOCK_N": (32, 64, 128, 256),
        "BLOCK_K": (32, 64, 128, 256),
        "SPLIT_K": _SPLITS[::-1],
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
    if width % 16:
        yield f"K must be a multiple of 16, got {width}; pad it with zeros"
    if variant.dtype == "e4m3" and not target.arch.has_fp8:
        yield f"{target.arch.name} does not multiply e4m3; use int8"


def _of_tile(problem: Problem, point: Point, target: Target) -> Iterator[str]:
    variant = VARIANTS[problem.symbol]
    if variant.is_float4 and (point["USE_TMA"] or not point["SWAP_AB"] or point["BLOCK_K"] < 64):
        yield "4-bit floats go to the matrix units as left operand through registers, 64 of K at a time"
    if variant.scaling == "block" and point["BLOCK_K"] > BLOCK_WIDTH:
        yield f"BLOCK_K of {point['BLOCK_K']} has several scales; at most {BLOCK_WIDTH} has one"
    accumulators = point["BLOCK_M"] * point["BLOCK_N"] // (point["num_warps"] * target.arch.warp_size)
    if accumulators > _MAX_ACCUMULATORS:
        yield f"{accumulators} accumulators of a thread leave no registers; at most {_MAX_ACCUMULATORS}"
    if (shared := shared_bytes(problem, point, target.arch)) > target.arch.tile_shared_bytes:
        most = target.arch.tile_shared_bytes
        yield f"{point['num_stages']} stages take {shared} bytes of shared memory; {target.arch.name} has {most}"
    if point["USE_TMA"]:
        strides = (problem[name].strides[0] * DTYPES[problem[name].dtype][0] for name in (variant.x, variant.weight))
        if not target.arch.has_tma:
            yield f"{target.arch.name} has no TMA"
        elif any(stride % 16 for stride in strides):
            yield "TMA needs rows that are multiples of 16 bytes apart"


def _of_grid(problem: Problem, point: Point, target: Target) -> Iterator[str]:
    """Nothing here refuses for fewer tokens what it allows for more: a point serves every step of its bucket."""
    (num_tokens, num_channels), width = problem["out"].shape, problem[VARIANTS[problem.symbol].x].shape[1]
    blocks, split_k = ceil(width / point["BLOCK_K"]), point["SPLIT_K"]
    if ceil(blocks / ceil(blocks / split_k)) != split_k:
        yield f"{blocks} blocks of K leave one of {split_k} splits empty"
    if split_k > 1 and split_k * num_tokens * num_channels * 4 > _MAX_PARTIAL_BYTES:
        yield f"the sums of {split_k} splits take more than {_MAX_PARTIAL_BYTES} bytes"
    if split_k > 1 and (point["PERSISTENT"] or point["GROUP_M"] > 1):
        yield "splitting K is for few tiles; persistent programs and grouped rows are for many"


def shared_bytes(problem: Problem, point: Point, arch: Arch) -> int:
    """An upper bound of the shared memory that the compiler asks for: tiles in flight, then the result on its way out."""
    variant = VARIANTS[problem.symbol]
    weights = point["BLOCK_N"] * point["BLOCK_K"]
    stage = point["BLOCK_M"] * point["BLOCK_K"] * DTYPES[problem[variant.x].dtype][0] + int(weights * variant.weight_bits / 8)
    if variant.scaling == "block":
        stage += 4 * (point["BLOCK_M"] + (point["BLOCK_N"] if point["BLOCK_N"] > BLOCK_WIDTH else 1))
    tiles = stage * point["num_stages"]
    if arch.backend == "hip":
        # Rows are padded, lest threads meet in a bank.
        tiles += tiles // 16
    if variant.is_float4 and not arch.has_wgmma:
        # Without fragments of wgmma's kind numbers change threads.
        tiles += weights * 2
    return max(tiles, point["BLOCK_M"] * point["BLOCK_N"] * 4) + _SHARED_EXTRA_BYTES


def _default(problem: Problem, target: Target) -> Point:
    num_tokens = problem["out"].shape[0]
    return _few_tokens(problem, target) if num_tokens <= 64 else _many_tokens(problem, target)


def _few_tokens(problem: Problem, target: Target) -> Point:
    """For what waits for the weight: enough of it in flight on every SM, and little to do per byte."""
    variant = VARIANTS[problem.symbol]
    (num_tokens, num_channels), width = problem["out"].shape, problem[variant.x].shape[1]
    packed = variant.is_float4
    block_m = next(tokens for tokens in (16, 32, 64) if num_tokens <= tokens)
    # Widening of 4-bit codes is worth its while only if the rest of the loop has a large tile to spread over.
    block_n, block_k = (128, 128) if packed else (64, 64 if width % 128 else 128)
    stages = 4 if target.arch.backend == "cuda" else 2
    point = _point(block_m, block_n, block_k, 4, stages, SWAP_AB=1)
    # As many splits as can run at once, each with enough of K to fill its stages.
    at_once = target.num_sms * min(4, target.arch.tile_shared_bytes // shared_bytes(problem, point, target.arch))
    most = min(at_once // ceil(num_channels / block_n), ceil(width / block_k) // stages)
    splits = ({**point, "SPLIT_K": split} for split in _SPLITS if split <= most)
    return next((split for split in splits if _refusal(problem, split, target) is None), point)


def _many_tokens(problem: Problem, target: Target) -> Point:
    """For what the matrix units bound: the largest tile of which there is one for every SM."""
    variant = VARIANTS[problem.symbol]
    (num_tokens, num_channels), width = problem["out"].shape, problem[variant.x].shape[1]
    tiles = ((128, 128, 8), (64, 128, 4), (64, 64, 4))
    programs = (ceil(num_tokens / tokens) * ceil(num_channels / channels) for tokens, channels, _ in tiles)
    enough = (tile for tile, count in zip(tiles, programs, strict=True) if count >= target.num_sms)
    block_m, block_n, num_warps = next(enough, tiles[-1])
    block_k = 64 if variant.dtype == "act" or width % 128 else 128
    group_m = 8 if ceil(num_tokens / block_m) > 4 else 1
    packed = variant.is_float4
    by_tma = int(target.arch.has_tma and not packed)
    stages = 3 if target.arch.backend == "cuda" else 2
    return _point(block_m, block_n, block_k, num_warps, stages, GROUP_M=group_m, USE_TMA=by_tma, SWAP_AB=int(packed))


def _point(block_m: int, block_n: int, block_k: int, num_warps: int, num_stages: int, **others: int) -> dict[str, int]:
    tile = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "num_warps": num_warps, "num_stages": num_stages}
    return {"SPLIT_K": 1, "GROUP_M": 1, "PERSISTENT": 0, "USE_TMA": 0, "SWAP_AB": 0, **tile, **others}


TUNING = GpuTuning(_parameters, _refusal, _default)
