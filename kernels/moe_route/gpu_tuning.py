"""Tiles of the router's matmul, lanes of a token's selection, pairs that the alignment reads at once."""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.launch import DTYPES, Problem
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point

_PARAMETERS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "gpu_moe_logits": {
        "block_t": (16, 32, 64, 128),
        "block_e": (16, 32, 64, 128),
        "block_k": (64, 128, 256),
        "num_splits": (1, 2, 4, 8, 16),
        "num_warps": (2, 4, 8),
        "num_stages": (2, 3, 4),
    },
    "gpu_moe_align": {"chunk": (256, 512, 1024, 2048, 4096), "num_warps": (4, 8)},
}
_ROUTE: Mapping[str, tuple[int, ...]] = {"num_warps": (1, 2, 4)}


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    return _PARAMETERS.get(symbol, _ROUTE)


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    if problem.symbol != "gpu_moe_logits":
        return _route_refusal(problem) if problem.symbol != "gpu_moe_align" else None
    _, k = problem["x"].shape
    stage = (point["block_t"] + point["block_e"]) * point["block_k"] * DTYPES[problem["x"].dtype][0]
    if stage * point["num_stages"] > target.arch.tile_shared_bytes:
        return f"{point['num_stages']} stages of {stage} bytes exceed {target.arch.tile_shared_bytes} bytes of shared memory"
    if (point["num_splits"] - 1) * point["block_k"] >= k:
        return f"{point['num_splits']} splits of at least {point['block_k']} columns are more than there are, {k}"
    if point["block_t"] * point["block_e"] < 64 * point["num_warps"] * (target.arch.warp_size // 32):
        return f"a tile of {point['block_t']} x {point['block_e']} is too small for {point['num_warps']} warps"
    return None


def _route_refusal(problem: Problem) -> str | None:
    experts, top_k = problem["logits"].shape[1], problem["topk_ids"].shape[1]
    num_groups, topk_groups = int(problem.scalars["num_groups"]), int(problem.scalars["topk_groups"])
    if experts % num_groups or not 1 <= topk_groups <= num_groups:
        return f"{topk_groups} of {num_groups} groups of {experts} experts: groups must be equal, and at least one chosen"
    if top_k > experts // num_groups * topk_groups:
        return f"{top_k} experts per token are more than {topk_groups} groups of {experts // num_groups} have"
    return None


def _default(problem: Problem, target: Target) -> Point:
    if problem.symbol == "gpu_moe_align":
        pairs = problem["topk_ids"].shape[0] * problem["topk_ids"].shape[1]
        return {"chunk": 256 if pairs <= 256 else 1024, "num_warps": 4}
    if problem.symbol != "gpu_moe_logits":
        return {"num_warps": 1}
    (tokens, k), experts = problem["x"].shape, problem["weight"].shape[0]
    block_t, num_stages = 16 if tokens <= 64 else 64, 3
    tiles = -(-tokens // block_t) * -(-experts // 32)
    splits = next((s for s in (16, 8, 4, 2) if tiles * s <= target.num_sms and s * 256 <= k), 1)
    return {
        "block_t": block_t,
        "block_e": 32,
        "block_k": 128,
        "num_splits": splits,
        "num_warps": 2 if block_t == 16 and target.arch.warp_size == 32 else 4,
        "num_stages": num_stages if target.arch.backend == "cuda" else 2,
    }


TUNING = GpuTuning(_parameters, _refusal, _default)
