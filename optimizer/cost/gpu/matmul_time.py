"""How long a tiled matmul takes, from first principles and two dozen fitted constants; and tiles in the order it suggests.

An SM runs `blocks_per_sm` blocks at a time. Each iteration over k of a block is a chain (wait, multiply, issue) and a load
that was issued some stages before; the blocks of an SM together are bound by its pipes: matrix unit, instruction issue,
shared memory, its share of L2. Blocks come in waves; all of them together are bound by the bandwidth of memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.gpu.constants import FITTED, Constants
from optimizer.cost.gpu.facts import GpuFacts
from optimizer.cost.gpu.pipes import SCHEDULERS, SHARED_BYTES_PER_CLOCK, Array, join
from optimizer.cost.gpu.problem import SCALE_BLOCK_K, MatmulProblem, Tile
from optimizer.cost.gpu.resources import Resources, StaticFacts, Tiles, resources


@dataclass(frozen=True)
class Breakdown:
    """The predicted time of one tile. `pipes_us`: what each pipe alone would need, and `chain`: waiting for loads and for
    oneself, `start`: filling and emptying the machine. They overlap, so `time_us` is less than their sum."""

    time_us: float
    """Infinite where `refusal` says why the tile cannot run."""
    pipes_us: Mapping[str, float]
    blocks_per_sm: int
    num_programs: float
    """Expected, as routing is random."""
    refusal: str | None = None

    @property
    def bound_by(self) -> str:
        """The pipe that needs the most."""
        return max(self.pipes_us, key=lambda pipe: self.pipes_us[pipe])


@dataclass(frozen=True)
class Ranked:
    """A tile and its predicted time, over all problems it was ranked for."""

    tile: Tile
    time_us: float


def time_us(
    problem: MatmulProblem, tile: Tile, gpu: GpuFacts, static: StaticFacts | None = None, constants: Constants = FITTED
) -> Breakdown:
    """Predict one tile's time; `static` is what a compiled kernel says of itself."""
    tiles = Tiles([tile])
    need = resources(problem, tiles, gpu, constants, [static])
    total, pipes, programs = _times(problem, tiles, need, gpu, constants)
    refusal = _refusal(problem, tile, need, gpu)
    return Breakdown(
        time_us=math.inf if refusal else float(total[0]),
        pipes_us={name: float(us[0]) for name, us in pipes.items()},
        blocks_per_sm=int(need.blocks_per_sm[0]),
        num_programs=float(programs[0]),
        refusal=refusal,
    )


def times_us(
    problem: MatmulProblem,
    tiles: Tiles,
    gpu: GpuFacts,
    static: Sequence[StaticFacts | None] | None = None,
    constants: Constants = FITTED,
) -> Array:
    """`time_us` of many tiles at once; infinite where a tile cannot run."""
    need = resources(problem, tiles, gpu, constants, static)
    total, _, _ = _times(problem, tiles, need, gpu, constants)
    return np.where(_fits(problem, tiles, need, gpu), total, np.inf)


def rank(
    problems: MatmulProblem | Sequence[MatmulProblem],
    tiles: Sequence[Tile],
    gpu: GpuFacts,
    static: Sequence[StaticFacts | None] | None = None,
    constants: Constants = FITTED,
) -> list[Ranked]:
    """Tiles by predicted time, summed over `problems` (a layer's matmuls that share a tile); those that cannot run come last.

    Equal times (to seven digits) keep the order given, so the same inputs give the same list on every machine.
    """
    several = [problems] if isinstance(problems, MatmulProblem) else list(problems)
    arrays = Tiles(tiles)
    total = sum((times_us(problem, arrays, gpu, static, constants) for problem in several), np.zeros(len(tiles)))
    keys = [math.inf if math.isinf(us) else float(f"{us:.6e}") for us in total.tolist()]
    return [Ranked(tiles[index], float(total[index])) for index in sorted(range(len(tiles)), key=keys.__getitem__)]


def _refusal(problem: MatmulProblem, tile: Tile, need: Resources, gpu: GpuFacts) -> str | None:
    if need.shared_bytes[0] > gpu.shared_per_block_bytes:
        return (
            f"needs {need.shared_bytes[0]:.0f} bytes of shared memory, a block on {gpu.name} may have "
            f"{gpu.shared_per_block_bytes}; use fewer stages or a smaller tile"
        )
    if problem.block_scaled and tile.block_k > SCALE_BLOCK_K:
        return (
            f"has {tile.block_k} of k in a block, of which each {SCALE_BLOCK_K} has another scale; use at most {SCALE_BLOCK_K}"
        )
    if tile.num_warps * gpu.lanes > 1024:
        return f"needs {tile.num_warps * gpu.lanes} threads, a block may have 1024; use fewer warps"
    return None


def _fits(problem: MatmulProblem, tiles: Tiles, need: Resources, gpu: GpuFacts) -> NDArray[np.bool_]:
    fits: NDArray[np.bool_] = (need.shared_bytes <= gpu.shared_per_block_bytes) & (tiles.warps * gpu.lanes <= 1024)
    return fits & (tiles.k <= SCALE_BLOCK_K) if problem.block_scaled else fits


def _times(
    problem: MatmulProblem, tiles: Tiles, need: Resources, gpu: GpuFacts, c: Constants
) -> tuple[Array, dict[str, Array], Array]:
    """(total, by pipe) in microseconds, and the number of programs."""
    warpgroup = need.warpgroup
    iterations = np.ceil(np.ceil(problem.k / tiles.k) / tiles.split_k)
    row_blocks = np.array([problem.row_blocks(tile.block_m) for tile in tiles.tiles])
    programs = row_blocks * np.ceil(problem.n / tiles.n) * tiles.split_k
    rows_per_block = np.minimum(problem.rows / row_blocks, tiles.m)
    # Rows that pad an expert's last block are masked; those past the end of a plain matmul wrap around and are loaded.
    loaded = need.a_bytes * (rows_per_block / tiles.m if problem.is_grouped else 1.0) + need.b_bytes

    # Cycles of one iteration of one block, pipe by pipe.
    share = c.synchronous_share if gpu.has_warpgroup_mma else c.synchronous_efficiency
    rate = gpu.flops_per_clock[gpu.computes(problem.a)] * np.where(warpgroup, c.warpgroup_efficiency, share)
    tensor = need.tensor_flops / rate
    with_spills = 1 + 2 * need.spilled / need.instructions
    issue = need.instructions * tiles.warps / SCHEDULERS * with_spills
    shared = (loaded + need.fragment_bytes) / SHARED_BYTES_PER_CLOCK * with_spills + 2 * need.spilled * tiles.warps
    l2 = loaded / c.l2_bytes_per_clock
    pipes = join(c.overlap, tensor, issue, shared, l2)

    # Cycles of one iteration of a block that has the SM to itself.
    wait = np.where(warpgroup, c.warpgroup_wait_cycles, c.synchronous_wait_cycles)
    if gpu.accumulates_in_tensor_memory:
        wait = np.where(warpgroup, c.tensor_memory_wait_cycles, wait)
    wait += np.where((tiles.warps > 4) & (warpgroup | problem.block_scaled), c.second_warpgroup_cycles, 0.0)
    wait += c.block_scale_cycles * problem.block_scaled + np.where(warpgroup & need.widened, c.widen_shared_cycles, 0.0)
    alone = tensor * np.maximum(SCHEDULERS / tiles.warps, 1.0)  # fewer warps than schedulers reach as many matrix units
    chain = (wait + alone + c.cycles_per_instruction * need.instructions) * with_spills
    ahead = np.maximum(tiles.stages - 1 - np.where(warpgroup, c.lost_stage, 0.0), 0.5)
    latency = c.latency_ns * gpu.clock_ghz * (c.gather if problem.is_grouped else 1.0) / ahead

    start = c.block_start_cycles + c.warp_start_cycles * tiles.warps + c.first_load_ns * gpu.clock_ghz
    start += c.stage_start_cycles * (tiles.stages - 1) + (need.a_bytes + need.b_bytes) / c.l2_bytes_per_clock
    start += c.store_cost * rows_per_block * tiles.n * 2 / 64

    def batch(blocks: Array) -> Array:
        """Cycles of `blocks` blocks that share an SM from beginning to end."""
        return iterations * join(c.overlap, blocks * pipes, chain, latency) + start

    per_sm = np.maximum(programs / gpu.num_sms, 1.0)
    whole = np.ceil(per_sm - 1e-4)
    full, rest = np.floor(whole / need.blocks_per_sm), np.mod(whole, need.blocks_per_sm)
    in_waves = full * batch(need.blocks_per_sm) + np.where(rest > 0, batch(rest), 0.0)
    resident = np.minimum(need.blocks_per_sm, per_sm)
    evenly = np.maximum(per_sm / need.blocks_per_sm, 1.0) * batch(resident)
    cycles = c.quantization * in_waves + (1 - c.quantization) * evenly
    cycles *= np.exp(_lockstep(problem, tiles, warpgroup, gpu, c))

    to_us = 1e-3 / gpu.clock_ghz
    partial_sums = np.where(tiles.split_k > 1, tiles.split_k * problem.rows * problem.n * 8.0, 0.0)
    memory = (problem.unique_bytes + partial_sums) / (gpu.memory_bandwidth_gbps * 1e3 * c.memory_efficiency)
    total = join(c.overlap, cycles * to_us, memory) * np.exp(_preference(tiles, c))
    work = per_sm * iterations * to_us
    waves = np.maximum(per_sm / need.blocks_per_sm, 1.0)
    by_pipe = {
        "tensor": work * tensor,
        "issue": work * issue,
        "shared_memory": work * shared,
        "l2": work * l2,
        "memory": np.broadcast_to(memory, tensor.shape),
        "chain": waves * iterations * np.maximum(chain, latency) * to_us,
        "start": waves * start * to_us,
    }
    return total, by_pipe, programs


def _lockstep(problem: MatmulProblem, tiles: Tiles, warpgroup: NDArray[np.bool_], gpu: GpuFacts, c: Constants) -> Array:
    """What eight warps lose where four would do: a share of the block's time.

    Two blocks of four warps overlap one's scaling with the other's product; two warpgroups of a block wait for each other.
    tcgen05 has one issuing thread, so its warps do not.
    """
    eight = tiles.warps >= 8
    if gpu.accumulates_in_tensor_memory:
        pair = np.zeros(len(tiles.tiles), dtype=bool)
    else:
        pair = eight & warpgroup & ((tiles.m == 64) | problem.block_scaled)
    return np.where(pair, c.lockstep, 0.0) + np.where(eight & ~warpgroup & problem.block_scaled, c.synchronous_lockstep, 0.0)


def _preference(tiles: Tiles, c: Constants) -> Array:
    stages = np.select(
        [tiles.stages <= 2, tiles.stages == 4, tiles.stages >= 5], [c.two_stages, c.four_stages, c.five_stages], default=0.0
    )
    return stages + np.where(tiles.k < 128, c.short_k, 0.0)
