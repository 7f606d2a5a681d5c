"""Times of the tiled matrix products: which problem and tile of the matmul time model a call at a point is.

Kernels that make the weight the left operand (SWAP_AB, and always where 4-bit codes become fragments in registers) are
the transposed problem: their tile has BLOCK_N rows, and reaches the warpgroup unit by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kernels.gpu.launch import Problem
from kernels.gpu.tuning import Point
from optimizer.cost.gpu.constants import FITTED
from optimizer.cost.gpu.facts import GpuFacts
from optimizer.cost.gpu.matmul_time import time_us, times_us
from optimizer.cost.gpu.memory_time import start_us
from optimizer.cost.gpu.pipes import Array
from optimizer.cost.gpu.problem import Element, MatmulProblem, Tile, filled
from optimizer.cost.gpu.resources import StaticFacts, Tiles, resources
from optimizer.tuning.gpu.grid import PointGrid
from optimizer.tuning.gpu.time_model import LAUNCH_US, Modelled, expects_wgmma

_ELEMENTS: Mapping[str, Element] = {
    "bf16": "bf16",
    "f16": "fp16",
    "e4m3": "fp8",
    "i8": "int8",
    "u32": "int4",
}
#: What tuning spaces call the fields of a tile, in lower case.
_FIELDS = {"block_t": "block_m", "block_e": "block_n", "num_splits": "split_k", "swap_ab": "swap"}
#: Instructions of a lane for each 4-bit code that it widens; two at a time, and the sum of a group is scaled in fp32.
_WIDENING = 1.0


@dataclass(frozen=True)
class MatmulCall:
    """A call as a matrix product: x [tokens, width] times a weight [channels, width] of each head or expert."""

    tokens: int
    channels: int
    width: int
    x: Element
    weight: Element
    heads: int = 1
    num_experts: int = 1
    top_k: int = 1
    block_m: int | None = None
    """Rows of a tile where the call fixes them; of an alignment where the point has those of the tile."""
    block_scaled: bool = False
    moved_bytes: int = 0
    """All tensors once; 0 where routing decides."""
    scale_bytes: float = 0.0
    """Where routing decides: scales, zero points and biases of the experts that have tokens."""

    @classmethod
    def of(cls, problem: Problem) -> MatmulCall:
        """ValueError if the call is not a matrix product."""
        x = problem["x" if "x" in problem else "x_codes"]
        weight = problem["weight" if "weight" in problem else "codes"]
        moved = sum(tensor.nbytes for tensor in problem.tensors.values())
        elements = _ELEMENTS[x.dtype], _ELEMENTS[weight.dtype]
        tokens, *_, width = x.shape
        tokens = max(tokens, 1)
        if "sorted_ids" in problem:
            _, top_k, channels = problem["out"].shape
            block_m, scaled = problem["sorted_ids"].shape[1], problem.symbol.endswith("_block")
            num_experts = weight.shape[0]
            active = filled(tokens, top_k, num_experts, 1)[1] / num_experts
            beside = active * sum(problem[name].nbytes for name in ("scales", "zeros", "row_scales", "bias") if name in problem)
            return cls(tokens, channels, width, *elements, 1, num_experts, top_k, block_m, scaled, scale_bytes=beside)
        if problem.symbol == "gpu_head_matmul":
            heads, channels, width = weight.shape
            return cls(tokens, channels, width, *elements, heads, moved_bytes=moved)
        scaled = problem.symbol.endswith("_block")
        return cls(tokens, problem["out"].shape[1], width, *elements, block_scaled=scaled, moved_bytes=moved)

    @property
    def always_left(self) -> bool:
        return self.weight == "int4"

    def problem(self, left: bool) -> MatmulProblem:
        """For the time model; `left` where the weight is the left operand."""
        if not left:
            return MatmulProblem(
                self.tokens, self.channels * self.heads, self.width, self.x, self.weight, self.num_experts, self.top_k,
                self.block_scaled,
            )  # fmt: skip
        rows, columns = self.channels * self.heads, self.tokens
        if self.num_experts > 1:
            assert self.block_m is not None
            blocks, active = filled(self.tokens, self.top_k, self.num_experts, self.block_m)
            rows, columns = max(1, round(active * self.channels)), max(1, round(blocks / active * self.block_m))
        return MatmulProblem(rows, columns, self.width, self.weight, self.x, block_scaled=self.block_scaled)


class MatmulModel:
    """`TimeModel` of quant_matmul, scaled_matmul, moe_matmul, head_matmul and the router's logits."""

    blind = frozenset({"GROUP_M", "group_m", "USE_TMA", "PERSISTENT"})

    def __init__(self, gpu: GpuFacts) -> None:
        self._gpu = gpu
        self._start_us = start_us(gpu)
        self._widening: dict[tuple[Element, Element, Tiles], tuple[StaticFacts, ...]] = {}

    def times_us(self, problem: Problem, grid: PointGrid) -> Array:
        call = MatmulCall.of(problem)
        times = np.full(len(grid), np.inf)
        for left, tiles, members, inverse in _tiles(grid, call.block_m, call.always_left):
            matmul = call.problem(left)
            static = self._instructions(call, tiles) if call.always_left else None
            each = times_us(matmul, tiles, self._gpu, static) + self._beside(call, matmul)
            each += np.where(tiles.split_k > 1, self._start_us + LAUNCH_US, 0.0)
            times[members] = each[inverse]
        return times

    def modelled(self, problem: Problem, point: Point, static: StaticFacts | None = None) -> Modelled:
        call = MatmulCall.of(problem)
        left, tile = _tile(point, call.block_m, call.always_left)
        matmul = call.problem(left)
        if static is None and call.always_left:
            (static,) = self._instructions(call, Tiles([tile]))
        breakdown = time_us(matmul, tile, self._gpu, static)
        again = self._start_us + LAUNCH_US if tile.split_k > 1 else 0.0
        return Modelled(
            time_us=breakdown.time_us + self._beside(call, matmul) + again,
            memory_us=breakdown.pipes_us["memory"],
            tensor_us=breakdown.pipes_us["tensor"],
            expects_wgmma=expects_wgmma(self._gpu, tile.block_m, tile.num_warps),
        )

    def _instructions(self, call: MatmulCall, tiles: Tiles) -> tuple[StaticFacts, ...]:
        """Instructions of the loop where codes are widened in registers, as the left operand."""
        key = (call.weight, call.x, tiles)
        if key not in self._widening:
            need = resources(MatmulProblem(1, 1, 1, call.weight, call.x), tiles, self._gpu, FITTED)
            widened = _WIDENING * tiles.m * tiles.k / (self._gpu.lanes * tiles.warps)
            self._widening[key] = tuple(StaticFacts(loop_instructions=round(n)) for n in need.instructions + widened)
        return self._widening[key]

    def _beside(self, call: MatmulCall, matmul: MatmulProblem) -> float:
        """The launch, and what the problem does not know of: scales, zero points, logits in fp32."""
        unseen = max(0.0, call.moved_bytes - matmul.unique_bytes) if call.moved_bytes else call.scale_bytes
        return LAUNCH_US + unseen / (self._gpu.memory_bandwidth_gbps * 1e3 * FITTED.memory_efficiency)


def _tile(point: Point, block_m: int | None, always_left: bool) -> tuple[bool, Tile]:
    named = {_FIELDS.get(name.lower(), name.lower()): value for name, value in point.items()}
    rows, columns = named.get("block_m") or block_m, named["block_n"]
    assert rows is not None, "a point or a call has the rows of a tile"
    left = always_left or bool(named.get("swap"))
    if left:
        rows, columns = columns, rows
    splits = named.get("split_k", 1)
    return left, Tile(rows, columns, named["block_k"], named["num_warps"], named["num_stages"], split_k=splits)


@lru_cache(maxsize=256)
def _tiles(
    grid: PointGrid, block_m: int | None, always_left: bool
) -> tuple[tuple[bool, Tiles, NDArray[np.int64], NDArray[np.int64]], ...]:
    """For each orientation: its distinct tiles, the points that have it, and which of the tiles each of those has."""
    found: dict[bool, dict[Tile, list[int]]] = {}
    for index in range(len(grid)):
        left, tile = _tile(grid.point(index), block_m, always_left)
        found.setdefault(left, {}).setdefault(tile, []).append(index)
    return tuple(
        (
            left,
            Tiles(list(tiles)),
            np.concatenate([np.array(members) for members in tiles.values()]),
            np.repeat(np.arange(len(tiles)), [len(members) for members in tiles.values()]),
        )
        for left, tiles in found.items()
    )
