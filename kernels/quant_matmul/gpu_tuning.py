"""Tiles of the quantized matrix products: BLOCK_M tokens by BLOCK_N rows of weights, in blocks of BLOCK_K columns over SPLIT_K programs."""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.launch import Problem
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point
from kernels.quant_matmul.launch import group_size

#: Registers of a thread that tiles may take: what is left of 255 goes to addresses, masks and the scheduler.
_TILE_REGISTERS = 190


def _is_int4(symbol: str) -> bool:
    return symbol != "gpu_quant_matmul_int8"


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    return {
        "BLOCK_M": (8, 16, 32, 64, 128) if _is_int4(symbol) else (16, 32, 64, 128, 256),
        "BLOCK_N": (64, 128, 256),
        "BLOCK_K": (64, 128, 256),
        "SPLIT_K": (1, 2, 4, 8, 16),
        "GROUP_M": (1, 8),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4, 5),
    }


def _step(problem: Problem, point: Point) -> int:
    """Columns whose weights are widened at a time."""
    block_k = point["BLOCK_K"]
    return min(block_k, max(64, group_size(problem))) if _is_int4(problem.symbol) else block_k


def _tile_registers(problem: Problem, point: Point, target: Target) -> int:
    """What a thread holds of sums, widened weights and codes at once."""
    threads = point["num_warps"] * target.arch.warp_size
    sums, weights = point["BLOCK_M"] * point["BLOCK_N"], point["BLOCK_N"] * _step(problem, point)
    if _is_int4(problem.symbol):
        # A group's sum, and the sum of groups.
        return (2 * sums + weights // 2 + weights // 8) // threads
    return (sums + weights // 2 + weights // 4) // threads


def _shared_bytes(problem: Problem, point: Point) -> int:
    """At most what a program asks for: the stages of its loads and, of int8, the block that was widened; or the sums, on their way out."""
    block_m, block_n, block_k = point["BLOCK_M"], point["BLOCK_N"], point["BLOCK_K"]
    x, sums, widened = 2 * block_m * block_k, 4 * block_m * block_n, 2 * block_n * _step(problem, point)
    if _is_int4(problem.symbol):
        stage = x + block_n * block_k // 2 + 4 * block_n * max(1, block_k // group_size(problem))
    else:
        stage = x + block_n * block_k
    return max(point["num_stages"] * stage + widened, sums + sums // 8)


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    block_m, block_n, block_k, split_k = (point[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "SPLIT_K"))
    k = problem["x"].shape[1]
    if _is_int4(problem.symbol):
        group = group_size(problem)
        if group not in (32, 64, 128) or k % group:
            return f"a group is 32, 64 or 128 columns and K a multiple of it, got K = {k} in {problem['scales'].shape[1]} groups"
        if block_k % group and group % block_k:
            return f"a block of {block_k} columns would have part of a group of {group}"
        if block_m < 16 and not target.arch.has_wgmma and target.arch.backend != "cuda":
            return f"its matrix instructions take 16 tokens or more, not {block_m}"
    if block_n < 16 * point["num_warps"] and (_is_int4(problem.symbol) or block_m >= 64):
        return f"{point['num_warps']} warps of 16 rows are more than a tile of {block_n}"
    num_blocks = -(-k // block_k)
    if split_k > 1 and (split_k - 1) * -(-num_blocks // split_k) >= num_blocks:
        return f"of {split_k} splits of {num_blocks} blocks along K the last would have none"
    if (registers := _tile_registers(problem, point, target)) > _TILE_REGISTERS:
        return f"tiles would take {registers} registers of a thread, more than {_TILE_REGISTERS}"
    if (shared := _shared_bytes(problem, point)) > target.arch.max_shared_bytes:
        return f"it may need {shared} bytes of shared memory of {target.arch.max_shared_bytes}"
    return None


def _default(problem: Problem, target: Target) -> Point:
    (num_tokens, k), n = problem["x"].shape, problem["out"].shape[1]
    is_cuda = target.arch.backend == "cuda"
    smallest = 8 if _is_int4(problem.symbol) and is_cuda else 16
    block_m = next((size for size in (8, 16, 32, 64) if smallest <= size and num_tokens <= size), 128)
    block_n, block_k = 128, 128 if k % 128 == 0 else 64
    num_tiles = -(-num_tokens // block_m) * -(-n // block_n)
    point = {
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "SPLIT_K": _splits(num_tiles, -(-k // block_k), target),
        "GROUP_M": 8 if num_tokens > 8 * block_m else 1,
        "num_warps": 8 if block_m >= 64 else 4,
        "num_stages": 4 if is_cuda else 2,
    }
    # Small shared memories hold fewer stages, then shorter ones.
    for stages, columns in ((4, block_k), (3, block_k), (2, block_k), (3, 64), (2, 64)):
        if stages <= point["num_stages"]:
            candidate = point | {"num_stages": stages, "BLOCK_K": columns}
            if _refusal(problem, candidate, target) is None:
                return candidate
    return point


def _splits(num_tiles: int, num_blocks: int, target: Target) -> int:
    """As many as bring the programs near the number of SMs, each with two blocks at least."""
    split = 1
    while (
        split < 16
        and 4 * num_tiles * split <= 3 * target.num_sms
        and 2 * split * 2 <= num_blocks
        and (2 * split - 1) * -(-num_blocks // (2 * split)) < num_blocks
    ):
        split *= 2
    return split


TUNING = GpuTuning(_parameters, _refusal, _default)
