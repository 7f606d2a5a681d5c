"""Tiles of attention.

BLOCK_M is the rows of a query tile (tokens x the heads that share a kv head), TILE the keys of an iteration. PROGRAMS_PER_SM is
how many programs decoding aims at when it splits the keys. USE_TMA fetches keys and values in boxes: a box lies in one block.
Where a tile lies is read from the block table, and the compiler spreads stages over both loads: S stages keep (S - 1) // 2
tiles ahead.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.kv_cache import cache_refusal
from kernels.gpu.launch import DTYPES, Problem
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point
from kernels.paged_attention.launch import decodes, padded

#: Beyond this many of a thread's 255 registers the rest of it (addresses, operands, what each row needs) has no room.
_MAX_ACCUMULATORS = 144
_BARRIERS_AND_TABLES_BYTES = 2048


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    return {
        "BLOCK_M": (16, 32, 64, 128),
        "TILE": (16, 32, 64, 128),
        "PROGRAMS_PER_SM": (1, 2, 4),
        "USE_TMA": (0, 1),
        "num_warps": (1, 2, 4, 8),
        "num_stages": (2, 3, 5),
    }


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    return (
        cache_refusal(problem, target)
        or _refused_tile(problem, point, target)
        or (_refused_box(problem, point, target) if point["USE_TMA"] else None)
    )


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
    needed = _shared_bytes(problem, point)
    if needed > target.arch.tile_shared_bytes:
        return f"its buffers need {needed} bytes of shared memory, and a program has {target.arch.tile_shared_bytes}"
    return None


def _refused_box(problem: Problem, point: Point, target: Target) -> str | None:
    _, block_size, _, head_dim = problem["k_cache"].shape
    if not target.arch.has_tma:
        return f"{target.arch.name} has no TMA"
    if point["TILE"] > block_size:
        return f"a box of {point['TILE']} keys crosses blocks of {block_size}"
    if head_dim != padded(head_dim):
        return f"a box is a power of two wide, and a head is {head_dim}"
    element_bytes = DTYPES[problem["k_cache"].dtype][0]
    if head_dim * element_bytes < 32:
        return f"a row of a box has at least 32 bytes, and a head has {head_dim * element_bytes}"
    if problem["k_cache"].strides[1] * element_bytes % 16:
        return "slots must be a multiple of 16 bytes apart"
    return None


def _shared_bytes(problem: Problem, point: Point) -> int:
    """What a program keeps in shared memory at most: tiles of keys and values ahead and in use, those converted, q and p."""
    width, tile = padded(problem["q"].shape[2]), point["TILE"]
    tiles = max(1, (point["num_stages"] - 1) // 2) + 1
    cached = tiles * 2 * tile * width * DTYPES[problem["k_cache"].dtype][0]
    converted = 2 * tile * width * 2 if "k_scales" in problem else 0
    return cached + converted + point["BLOCK_M"] * (width + tile) * 2 + _BARRIERS_AND_TABLES_BYTES


def _preferred(problem: Problem, target: Target) -> Point:
    quantized, width = "k_scales" in problem, padded(problem["q"].shape[2])
    shared_operands = target.arch.name in ("sm_90", "sm_100")
    if decodes(problem):
        # One token's heads fill no larger tile. Codes are converted once by each warp that multiplies them: two warps share
        # the least of that, and tiles of 4096 numbers leave them enough registers.
        rows, threads, programs = (16, 64, 4) if quantized else (16, 128, 2)
        tile, tma, stages = (min(64, max(16, 4096 // width)) if quantized else 64), 0, 5
    elif [quantized, width > 128, not shared_operands].count(True) > 1:
        # Any two of these leave a thread too few registers for its share of 128 rows.
        rows, threads, programs = 64, (256 if width > 128 else 128), 1
        tile, tma, stages = (64 if shared_operands else 32), 0, 2
    else:
        # The tensor cores of some take keys from shared memory; the others hold them in registers.
        rows, threads, programs = 128, 256, 1
        tile, tma, stages = (64 if shared_operands else 32), int(not quantized), 3
    return {
        "BLOCK_M": rows if target.arch.backend == "cuda" else min(rows, 64),
        "TILE": tile,
        "PROGRAMS_PER_SM": programs,
        "USE_TMA": tma,
        "num_warps": threads // target.arch.warp_size,
        "num_stages": stages if target.arch.backend == "cuda" else 2,
    }


def _default(problem: Problem, target: Target) -> Point:
    """The legal point next to the preferred one; what matters most is kept longest."""
    preferred = _preferred(problem, target)
    if _refusal(problem, preferred, target) is None:
        return preferred

    def distance(point: Point) -> tuple[int, ...]:
        kept = ("BLOCK_M", "num_warps", "TILE", "num_stages", "USE_TMA", "PROGRAMS_PER_SM")
        return tuple(abs(point[name] - preferred[name]) for name in kept)

    return min(TUNING.candidates(problem, target), key=distance, default=preferred)


TUNING = GpuTuning(_parameters, _refusal, _default)
