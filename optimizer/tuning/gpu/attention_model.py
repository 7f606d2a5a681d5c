"""Times of paged attention: which sequences and tile of the attention time model a call at a point is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kernels.gpu.launch import Problem
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point
from kernels.paged_attention.launch import decodes, num_splits
from optimizer.cost.gpu.attention_time import AttentionProblem, AttentionTile, attention_time_us
from optimizer.cost.gpu.facts import GpuFacts
from optimizer.cost.gpu.pipes import Array
from optimizer.cost.gpu.problem import Element
from optimizer.cost.gpu.resources import StaticFacts
from optimizer.tuning.gpu.grid import PointGrid
from optimizer.tuning.gpu.time_model import LAUNCH_US, Modelled, expects_wgmma

_KV: dict[str, Element] = {"bf16": "bf16", "f16": "fp16", "i8": "int8", "e4m3": "fp8"}


class PagedAttentionModel:
    """`TimeModel` of grouped-query attention. `context_tokens` is the mean context of a decoding sequence.

    A step of prompts is taken to be whole prompts of `max_query_len` tokens: later chunks of a long one see more.
    """

    blind = frozenset({"USE_TMA"})

    def __init__(self, gpu: GpuFacts, target: Target, context_tokens: int) -> None:
        self._gpu, self._target, self._context = gpu, target, context_tokens

    def times_us(self, problem: Problem, grid: PointGrid) -> Array:
        return _of_distinct(grid, lambda point: self._tile(problem, point), lambda point: self.modelled(problem, point).time_us)

    def modelled(self, problem: Problem, point: Point, static: StaticFacts | None = None) -> Modelled:
        return _modelled(self._sequences(problem), self._tile(problem, point), self._gpu, static)

    def _tile(self, problem: Problem, point: Point) -> AttentionTile:
        return AttentionTile(
            block_m=point["BLOCK_M"],
            block_n=point["TILE"],
            num_warps=point["num_warps"],
            # The kernel's pipeline keeps (stages - 1) // 2 tiles ahead.
            num_stages=(point["num_stages"] - 1) // 2 + 1,
            num_splits=num_splits(problem, point, self._target) if decodes(problem) else 1,
            kv_block_size=problem["k_cache"].shape[1],
        )

    def _sequences(self, problem: Problem) -> AttentionProblem:
        num_tokens, num_heads, head_dim = problem["q"].shape
        _, block_size, num_kv_heads, _ = problem["k_cache"].shape
        num_seqs, max_blocks = problem["block_tables"].shape
        sequences = _sequences(
            num_tokens, num_seqs, int(problem.scalars["max_query_len"]), min(self._context, max_blocks * block_size)
        )
        made = AttentionProblem(*sequences, num_heads, num_kv_heads, head_dim, _KV[problem["k_cache"].dtype])
        return _windowed(made, int(problem.scalars["window"]))


class LatentAttentionModel:
    """`TimeModel` of multi-head latent attention: all heads share one key, whose first part is the value.

    The model's keys and values are two arrays, so a head is counted as half of both: products are right, and the one latent
    that is read counts nearly twice. It orders points; its microseconds are high where memory binds.
    """

    blind: frozenset[str] = frozenset()

    def __init__(self, gpu: GpuFacts, context_tokens: int) -> None:
        self._gpu, self._context = gpu, context_tokens

    def times_us(self, problem: Problem, grid: PointGrid) -> Array:
        return _of_distinct(grid, self._tile, lambda point: self.modelled(problem, point).time_us)

    def modelled(self, problem: Problem, point: Point, static: StaticFacts | None = None) -> Modelled:
        (num_tokens, num_heads, width), rank = problem["q"].shape, problem["out"].shape[2]
        num_seqs, max_blocks = problem["block_tables"].shape
        block_size = problem["cache"].shape[1]
        context = min(self._context, max_blocks * block_size)
        sequences = _sequences(num_tokens, num_seqs, int(problem.scalars["max_query_len"]), context)
        made = AttentionProblem(*sequences, num_heads, 1, (width + rank) // 2, _KV[problem["cache"].dtype])
        return _modelled(made, replace(self._tile(point), kv_block_size=block_size), self._gpu, static)

    def _tile(self, point: Point) -> AttentionTile:
        named = {name.lower(): value for name, value in point.items()}
        return AttentionTile(**{name: named[name] for name in ("block_m", "block_n", "num_warps", "num_stages", "num_splits")})


def _modelled(problem: AttentionProblem, tile: AttentionTile, gpu: GpuFacts, static: StaticFacts | None) -> Modelled:
    """Splits are joined by a second launch."""
    found = attention_time_us(problem, tile, gpu, static)
    return Modelled(
        time_us=found.time_us + LAUNCH_US * (1 if tile.num_splits == 1 else 2),
        memory_us=found.pipes_us["memory"],
        # A token that decodes reads a key for every product of 16 rows with it: memory binds, however few programs wait for it.
        tensor_us=0.0 if problem.query_tokens == 1 else found.pipes_us["tensor"],
        expects_wgmma=expects_wgmma(gpu, tile.block_m, tile.num_warps),
    )


def _sequences(num_tokens: int, num_seqs: int, max_query_len: int, context: int) -> tuple[int, int, int]:
    """(sequences, query tokens of each, context of each) that a call stands for."""
    if max_query_len <= 1:
        return max(num_seqs, 1), 1, max(context, 1)
    query_tokens = max(1, min(max_query_len, num_tokens))
    return max(1, round(num_tokens / query_tokens)), query_tokens, query_tokens


def _windowed(problem: AttentionProblem, window: int) -> AttentionProblem:
    """What a sliding window leaves: fewer keys; a prompt is cut into stretches of a window, which see as much before them."""
    if not window or window >= problem.context_tokens:
        return problem
    if problem.query_tokens <= window:
        return replace(problem, context_tokens=max(window, problem.query_tokens))
    stretches = -(-problem.query_tokens // window)
    context = window + window // 2
    return replace(problem, num_seqs=problem.num_seqs * stretches, query_tokens=window, context_tokens=context)


def _of_distinct(grid: PointGrid, tile: Callable[[Point], AttentionTile], time_us: Callable[[Point], float]) -> Array:
    """Times of all points, computed once for each tile."""
    known: dict[AttentionTile, float] = {}
    times = np.empty(len(grid))
    for index in range(len(grid)):
        point = grid.point(index)
        key = tile(point)
        if key not in known:
            known[key] = time_us(point)
        times[index] = known[key]
    return times
