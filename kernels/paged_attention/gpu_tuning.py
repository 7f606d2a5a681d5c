"""Tiles of attention.

BLOCK_M is the rows of a query tile (tokens x the heads that share a kv head), TILE the keys of an iteration. PROGRAMS_PER_SM is how
many programs decoding aims at when it splits the keys. USE_TMA fetches keys and values in boxes: a box lies in one block.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.launch import DTYPES, Problem
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point
from kernels.paged_attention.launch import decodes, padded


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    return {
        "BLOCK_M": (16, 32, 64, 128),
        "TILE": (16, 32, 64, 128),
        "PROGRAMS_PER_SM": (1, 2, 4),
        "USE_TMA": (0, 1),
        "num_warps": (2, 4, 8),
        "num_stages": (2, 3, 4),
    }


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    return (
        _refused_cache(problem, target)
        or _refused_tile(problem, point, target)
        or (_refused_box(problem, point, target) if point["USE_TMA"] else None)
    )


def _refused_cache(problem: Problem, target: Target) -> str | None:
    cache = problem["k_cache"]
    block_size = cache.shape[1]
    if block_size not in (16, 32, 64, 128, 256):
        return f"a KV block has 16, 32, 64, 128 or 256 tokens, not {block_size}"
    if problem["v_cache"].strides != cache.strides or cache.strides[0] != block_size * cache.strides[1]:
        return "slots of the caches of keys and of values must be evenly apart, and alike"
    if cache.dtype == "e4m3" and not target.arch.has_fp8:
        return f"{target.arch.name} has no e4m3; keep the KV cache in activations or in int8"
    return None


def _refused_tile(problem: Problem, point: Point, target: Target) -> str | None:
    _, num_heads, head_dim = problem["q"].shape
    group = num_heads // problem["k_cache"].shape[2]
    if point["BLOCK_M"] < group:
        return f"the {group} query heads of a kv head do not fit into {point['BLOCK_M']} rows"
    if decodes(problem):
        if point["BLOCK_M"] > max(64, padded(group)):
            return f"{point['BLOCK_M']} rows for the {group} of a decoding token are wasted"
    elif point["PROGRAMS_PER_SM"] != 1:
        return "only decoding splits the keys: PROGRAMS_PER_SM is 1 elsewhere"
    threads = point["num_warps"] * target.arch.warp_size
    registers = point["BLOCK_M"] * (padded(head_dim) + point["TILE"]) // threads
    if registers > _MAX_ACCUMULATORS:
        return f"scores and accumulators would take {registers} registers of a thread, of which it has 255; take more warps"
    needed = shared_bytes(problem, point)
    if needed > target.arch.max_shared_bytes:
        return f"its buffers need {needed} bytes of shared memory, and a program has {target.arch.max_shared_bytes}"
    return None


def _refused_box(problem: Problem, point: Point, target: Target) -> str | None:
    _, block_size, num_kv_heads, head_dim = problem["k_cache"].shape
    if not target.arch.has_tma:
        return f"{target.arch.name} has no TMA"
    if point["TILE"] > block_size:
        return f"a box of {point['TILE']} keys crosses blocks of {block_size}"
    if head_dim != padded(head_dim):
        return f"a box is a power of two wide, and a head is {head_dim}"
    if head_dim * DTYPES[problem["k_cache"].dtype][0] < 32:
        return "a row of a box has at least 32 bytes"
    if problem["k_cache"].strides[1] * DTYPES[problem["k_cache"].dtype][0] % 16:
        return "slots are not multiples of 16 bytes apart"
    return None


#: Beyond this many the rest of a program (addresses, operands, the scale of each row) no longer fits beside them.
_MAX_ACCUMULATORS = 160


def shared_bytes(problem: Problem, point: Point) -> int:
    """What a program keeps in shared memory, at most: stages of keys and values, as operands if they are converted, and q."""
    width = padded(problem["q"].shape[2])
    bytes_per_key = 2 * width * DTYPES[problem["k_cache"].dtype][0]
    converted = 0 if problem["k_cache"].dtype == problem["q"].dtype else 2 * width * 2
    rows = point["BLOCK_M"] * (width + point["TILE"]) * 2
    return point["TILE"] * (point["num_stages"] * bytes_per_key + converted) + rows


def _default(problem: Problem, target: Target) -> Point:
    group = problem["q"].shape[1] // problem["k_cache"].shape[2]
    # Converted codes reach mma.sync byte by byte, and wgmma through shared memory: there 64 rows cost less than 16.
    quantized = "k_scales" in problem
    rows = (64 if quantized and target.arch.has_wgmma else 16) if decodes(problem) else 64
    wanted = {
        "BLOCK_M": max(rows, padded(group)),
        "TILE": 64,
        "PROGRAMS_PER_SM": 2 if decodes(problem) else 1,
        "USE_TMA": 1,
        "num_warps": 4,
        "num_stages": 3 if target.arch.backend == "cuda" else 2,
    }
    smaller = (
        wanted | {"USE_TMA": tma, "TILE": tile, "num_stages": stages}
        for tile in (64, 32, 16)
        for stages in (wanted["num_stages"], 2)
        for tma in (1, 0)
    )
    return next((point for point in smaller if _refusal(problem, point, target) is None), wanted)


TUNING = GpuTuning(_parameters, _refusal, _default)
