"""What a tile asks of an SM: registers, shared memory, instructions. Counted from compiled kernels, or overridden by one.

The counts are for a plain Triton matmul (pointers, masks, a loop over k) as Triton 3.9 compiles it for sm_80, 89, 90, 100 and
120: a few hundred kernels over tiles, operand dtypes and block scales, whose registers, spills and loops were read from SASS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.gpu.constants import Constants
from optimizer.cost.gpu.facts import GpuFacts
from optimizer.cost.gpu.pipes import Array
from optimizer.cost.gpu.problem import BYTES, MatmulProblem, Tile

_LOAD_BYTES = 16  # per lane and instruction, of a copy to shared memory


@dataclass(frozen=True)
class StaticFacts:
    """What is known of one compiled kernel; None where it is not. `loop_instructions` are per warp and iteration."""

    registers: int | None = None
    """Per thread."""
    loop_instructions: int | None = None
    spill_instructions: int | None = None
    """Loads and stores of local memory, per warp and iteration."""
    shared_bytes: int | None = None
    blocks_per_sm: int | None = None


class Tiles:
    """The fields of several tiles as arrays."""

    def __init__(self, tiles: Sequence[Tile]):
        self.tiles = tuple(tiles)
        self.m, self.n, self.k, self.warps, self.stages, self.split_k = (
            np.array([getattr(tile, name) for tile in tiles], dtype=np.float64)
            for name in ("block_m", "block_n", "block_k", "num_warps", "num_stages", "split_k")
        )
        self._synchronous = np.array([_synchronous_layout(tile) for tile in tiles], dtype=np.float64).reshape(-1, 2)
        self._warpgroup = np.array([_warpgroup_layout(tile) for tile in tiles], dtype=np.float64).reshape(-1, 2)

    @cached_property
    def fit_warpgroup(self) -> NDArray[np.bool_]:
        """64 rows and 4 warps: what the compiler asks before it uses wgmma or tcgen05."""
        return (self.m >= 64) & (self.warps >= 4)

    def warps_along(self, warpgroup: NDArray[np.bool_]) -> tuple[Array, Array]:
        """Warps that share the rows, and the columns, of a tile."""
        layout = np.where(warpgroup[:, None], self._warpgroup, self._synchronous)
        return layout[:, 0], layout[:, 1]


def _synchronous_layout(tile: Tile) -> tuple[int, int]:
    """Warps along m and n as the compiler deals them for mma.sync (16 x 8 a warp): to the longer side, m first."""
    along_m = along_n = 1
    while along_m * along_n < tile.num_warps:
        if tile.block_m / 16 / along_m >= tile.block_n / 16 / along_n and along_m * 16 < tile.block_m:
            along_m *= 2
        else:
            along_n *= 2
    # Beyond 8 columns a warp they repeat each other's work.
    return along_m, max(1, min(along_n, tile.block_n // 8))


def _warpgroup_layout(tile: Tile) -> tuple[int, int]:
    along_m = 8 if tile.num_warps >= 8 and tile.block_m >= 128 else min(4, tile.num_warps)
    return along_m, max(1, tile.num_warps // along_m)


@dataclass(frozen=True)
class Resources:
    """By tile. Bytes and cycles are of one block (one program) and one iteration over k."""

    warpgroup: NDArray[np.bool_]
    a_bytes: Array
    b_bytes: Array
    fragment_bytes: Array
    """Read from shared memory by the matrix unit or for it."""
    tensor_flops: Array
    instructions: Array
    """Per warp, spills left out."""
    spilled: Array
    """Registers per thread that find no place."""
    registers: Array
    shared_bytes: Array
    blocks_per_sm: Array
    widened: bool
    """`b` is widened to the dtype of `a`."""
    unpacked_fp8: NDArray[np.bool_]
    """fp8 operands are widened to fp16 for mma.sync."""


def resources(
    problem: MatmulProblem,
    tiles: Tiles,
    gpu: GpuFacts,
    constants: Constants,
    static: Sequence[StaticFacts | None] | None = None,
) -> Resources:
    """What every tile needs; `static` overrides the estimates of the tiles it is given for."""
    a_size, b_size = BYTES[problem.a], BYTES[problem.b]
    computed = gpu.computes(problem.a)
    compute_size = 2.0 if computed in ("bf16", "fp16") else 1.0
    lanes = gpu.lanes
    warpgroup = tiles.fit_warpgroup & gpu.has_warpgroup_mma
    along_m, along_n = tiles.warps_along(warpgroup)
    a_bytes, b_bytes = tiles.m * tiles.k * a_size, tiles.k * tiles.n * b_size
    wide_b = tiles.k * tiles.n * a_size
    widened = b_size < a_size
    # On sm_90 and sm_100 the compiler has no mma.sync for fp8, and on GPUs before sm_89 there is none.
    unpacks = problem.a == "fp8" and (computed != "fp8" or gpu.has_warpgroup_mma)
    unpacked_fp8 = np.logical_and(unpacks, ~warpgroup)
    seen_size = np.where(unpacked_fp8, 2.0, compute_size)

    copies = (a_bytes + b_bytes) / (_LOAD_BYTES * lanes * tiles.warps)
    sums = tiles.m * tiles.n / (lanes * tiles.warps)
    a_fragment, b_fragment = a_bytes / along_m, wide_b / along_n
    fragments = (a_fragment + b_fragment) / (_LOAD_BYTES * lanes)
    products = tiles.m * tiles.n * tiles.k / (along_m * along_n * 16 * 8 * 32 / seen_size * lanes / 32)
    pairs = (a_fragment + b_fragment) / (2 * lanes)
    in_tensor_memory = warpgroup & gpu.accumulates_in_tensor_memory

    instructions = np.where(in_tensor_memory, 230.0, np.where(warpgroup, 70.0, 40.0)) + 4 * copies
    instructions += np.where(warpgroup, 0.0, fragments + products)
    old_conversion = constants.conversion_cost if gpu.arch == "sm_90" else 1.0
    instructions += np.where(unpacked_fp8, pairs * old_conversion, 0.0)
    if widened:
        per_column = tiles.k * tiles.n / lanes
        instructions += np.where(warpgroup, per_column * 2.5 / tiles.warps, per_column * 1.5 / along_n)
    if problem.block_scaled:
        instructions += sums * np.where(in_tensor_memory, 4.0, 2.0)

    # CUDA keeps a kilobyte of every block's shared memory, and barriers take some more.
    reserved = 0 if gpu.is_amd else 1024
    buffers = np.where(warpgroup, tiles.stages, np.maximum(tiles.stages - 1, 1))
    shared = buffers * (a_bytes + b_bytes) + np.where(warpgroup & widened, wide_b, 0.0) + reserved
    registers = 26 + 2.2 * copies + sums * np.where(warpgroup, 1.0, 1.2)
    registers += np.where(warpgroup, 0.0, (tiles.m / along_m / 16 * 4 + tiles.n / along_n / 8 * 2) * 2 / a_size)
    if gpu.is_amd:
        # No copy goes straight to shared memory: what is in flight waits in registers.
        registers += copies * 4 * np.maximum(tiles.stages - 1, 1)
    if problem.block_scaled:
        registers += sums + 14
    spilled = np.maximum(registers - gpu.max_registers, 0) * constants.spill
    granted = np.minimum(np.ceil(registers / 8) * 8, gpu.max_registers)

    given = static or ()
    for index, facts in enumerate(given):
        if facts is None:
            continue
        if facts.registers is not None:
            granted[index] = facts.registers
        if facts.shared_bytes is not None:
            shared[index] = facts.shared_bytes
        if facts.loop_instructions is not None:
            instructions[index] = facts.loop_instructions
            spilled[index] = 0.0  # they are among the instructions counted
        if facts.spill_instructions is not None:
            spilled[index] = facts.spill_instructions / 2

    fit_registers = np.floor(gpu.registers_per_sm / (granted * lanes * tiles.warps))
    fit_shared = np.floor(gpu.shared_per_sm_bytes / (shared + reserved))
    blocks = np.minimum(np.minimum(fit_registers, fit_shared), np.floor(gpu.max_warps_per_sm / tiles.warps))
    for index, facts in enumerate(given):
        if facts is not None and facts.blocks_per_sm is not None:
            blocks[index] = facts.blocks_per_sm
    return Resources(
        warpgroup=warpgroup,
        a_bytes=a_bytes,
        b_bytes=b_bytes,
        fragment_bytes=a_bytes * along_n + wide_b * along_m + np.where(warpgroup & widened, 2 * wide_b, 0.0),
        tensor_flops=2 * tiles.m * tiles.n * tiles.k * np.where(unpacked_fp8 & (computed == "fp8"), 2.0, 1.0),
        instructions=instructions,
        spilled=spilled,
        registers=granted,
        shared_bytes=shared,
        blocks_per_sm=np.maximum(blocks, 1.0),
        widened=widened,
        unpacked_fp8=unpacked_fp8,
    )
