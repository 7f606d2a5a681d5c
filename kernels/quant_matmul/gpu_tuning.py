"""Tiles of the quantized products: BLOCK_M tokens by BLOCK_N rows, in blocks of BLOCK_K columns over SPLIT_K programs."""

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


def _reads_shared_memory(target: Target) -> bool:
    """Whether matrix instructions take an operand from shared memory: wgmma, and tcgen05 of sm_100."""
    return target.arch.has_wgmma or target.arch.name == "sm_100"


def _tile_registers(problem: Problem, point: Point, target: Target) -> int:
    """What a thread holds of sums, widened weights, codes and tokens at once."""
    threads = point["num_warps"] * target.arch.warp_size
    sums, weights = point["BLOCK_M"] * point["BLOCK_N"], point["BLOCK_N"] * _step(problem, point)
    # Where tokens are not read from shared memory they are in registers, though not all at once.
    tokens = 0 if _reads_shared_memory(target) else point["BLOCK_M"] * _step(problem, point)
    if _is_int4(problem.symbol):
        # The sum of groups, and that of a group; where a block has several, the next one's too.
        held = 2 if point["BLOCK_K"] <= group_size(problem) else 3
        return (held * sums + weights // 2 + weights // 8) // threads + tokens // (4 * target.arch.warp_size)
    # Warps that share the tokens of a tile hold the same weights.
    replicas = 2 if point["BLOCK_M"] > 32 and not _reads_shared_memory(target) else 1
    return (sums + replicas * (weights + tokens) // 2 + weights // 4) // threads


def _shared_bytes(problem: Problem, point: Point, target: Target) -> int:
    """At most what a program asks for: the stages of its loads and a block that was widened; or the sums, on their way out."""
    block_m, block_n, block_k = point["BLOCK_M"], point["BLOCK_N"], point["BLOCK_K"]
    x, sums = 2 * block_m * block_k, 4 * block_m * block_n
    if _is_int4(problem.symbol):
        stage = x + block_n * block_k // 2 + 4 * block_n * max(1, block_k // group_size(problem))
    else:
        stage = x + block_n * block_k
    # Weights are read from shared memory by wgmma as its second operand, and wherever fragments are in another order.
    through_shared = not target.arch.has_wgmma if _is_int4(problem.symbol) else _reads_shared_memory(target) and block_m >= 64
    widened = 2 * block_n * _step(problem, point) if through_shared else 0
    return max(point["num_stages"] * stage + widened, sums + sums // 8)


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    block_m, block_n, block_k, split_k = (point[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "SPLIT_K"))
    k = problem["x"].shape[1]
    if _is_int4(problem.symbol):
        group = group_size(problem)
        if group not in (32, 64, 128) or k % group:
            return (
                f"a group is 32, 64 or 128 columns and K a multiple of it, got K = {k} in {problem['scales'].shape[1]} groups"
            )
        if block_k % group and group % block_k:
            return f"a block of {block_k} columns would have part of a group of {group}"
        if block_m < 16 and target.arch.backend != "cuda":
            return f"its matrix instructions take 16 tokens or more, not {block_m}"
    if block_n < 16 * point["num_warps"] and (_is_int4(problem.symbol) or block_m >= 64):
        return f"{point['num_warps']} warps of 16 rows are more than a tile of {block_n}"
    num_blocks = -(-k // block_k)
    if split_k > 1 and (split_k - 1) * -(-num_blocks // split_k) >= num_blocks:
        return f"of {split_k} splits of {num_blocks} blocks along K the last would have none"
    if (registers := _tile_registers(problem, point, target)) > _TILE_REGISTERS:
        return f"tiles would take {registers} registers of a thread, more than {_TILE_REGISTERS}"
    if (shared := _shared_bytes(problem, point, target)) > target.arch.tile_shared_bytes:
        return f"it may need {shared} bytes of shared memory of {target.arch.tile_shared_bytes}"
    return None


def _default(problem: Problem, target: Target) -> Point:
    (num_tokens, k), n = problem["x"].shape, problem["out"].shape[1]
    is_int4, is_cuda = _is_int4(problem.symbol), target.arch.backend == "cuda"
    # An mma.sync or wgmma takes 8 tokens as its N, tcgen05 of 128 rows 16.
    smallest = 8 if is_int4 and is_cuda and target.arch.name != "sm_100" else 16
    block_m = next((size for size in (8, 16, 32, 64) if smallest <= size and num_tokens <= size), 128)
    block_k = 128 if k % 128 == 0 else 64
    if is_int4 and block_m == 128:
        # One group at a time: the sums of two do not fit beside each other, and 64 columns are the least that is loaded.
        block_k = min(block_k, max(64, group_size(problem)))
        block_m = 64 if group_size(problem) < 64 else 128
    if not _reads_shared_memory(target):
        block_m = min(block_m, 64)
        block_k = 64 if block_m > smallest else block_k
    num_tiles = -(-num_tokens // block_m) * -(-n // 128)
    point = {
        "BLOCK_M": block_m,
        "BLOCK_N": 128,
        "BLOCK_K": block_k,
        "SPLIT_K": _splits(num_tiles, -(-k // block_k), target),
        "GROUP_M": 8 if num_tokens > 8 * block_m else 1,
        "num_warps": 8 if block_m >= 64 else 4,
    }
    # As many stages as shared memory holds.
    candidates = [{**point, "num_stages": stages} for stages in ((4, 3, 2) if is_cuda else (2,))]
    return next((each for each in candidates if _refusal(problem, each, target) is None), candidates[-1])


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
