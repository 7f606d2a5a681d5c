"""How long paged attention takes, as a function of tile, KV block size and number of splits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from optimizer.cost.gpu.constants import FITTED, Constants
from optimizer.cost.gpu.facts import GpuFacts
from optimizer.cost.gpu.memory_time import STREAM_EFFICIENCY, memory_time_us, start_us
from optimizer.cost.gpu.pipes import EXP2_PER_CLOCK, SCHEDULERS, SHARED_BYTES_PER_CLOCK
from optimizer.cost.gpu.problem import BYTES, Element
from optimizer.cost.gpu.resources import StaticFacts

_LOAD_BYTES = 16  # per lane and instruction
_SOFTMAX_INSTRUCTIONS = 9  # per score besides its exp2: scale, mask, maximum, subtract, sum, convert, and rescaling the output
_CONVERSIONS_PER_ELEMENT = 0.5  # of an 8-bit KV cache, two elements at a time
_BLOCK_INSTRUCTIONS = 12  # per warp and KV block: its number, its address, its bounds
_FIXED_INSTRUCTIONS = 60  # per warp and iteration


@dataclass(frozen=True)
class AttentionProblem:
    """`num_seqs` sequences, each with `query_tokens` new tokens (1: decode) at the end of `context_tokens`; causal."""

    num_seqs: int
    query_tokens: int
    context_tokens: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    kv: Element = "bf16"

    def __post_init__(self) -> None:
        if self.num_q_heads % self.num_kv_heads:
            raise ValueError(
                f"query heads must be a multiple of KV heads, got {self.num_q_heads} and {self.num_kv_heads}; correct one"
            )
        if self.query_tokens > self.context_tokens:
            raise ValueError(
                f"a context includes its queries, got {self.query_tokens} queries in {self.context_tokens} tokens; add them"
            )

    @property
    def rows_per_kv_head(self) -> int:
        """Queries that read the same keys."""
        return self.query_tokens * (self.num_q_heads // self.num_kv_heads)


@dataclass(frozen=True)
class AttentionTile:
    """`block_m` queries (heads of a group packed with tokens) by `block_n` keys; keys in `num_splits` parts, joined after."""

    block_m: int
    block_n: int
    num_warps: int = 4
    num_stages: int = 2
    num_splits: int = 1
    kv_block_size: int = 16


@dataclass(frozen=True)
class AttentionBreakdown:
    """The predicted time; `pipes_us` is what each pipe alone would need, as in a matmul's `Breakdown`."""

    time_us: float
    pipes_us: Mapping[str, float]
    blocks_per_sm: int
    num_programs: int
    refusal: str | None = None

    @property
    def bound_by(self) -> str:
        """The pipe that needs the most."""
        return max(self.pipes_us, key=lambda pipe: self.pipes_us[pipe])


def attention_time_us(
    problem: AttentionProblem,
    tile: AttentionTile,
    gpu: GpuFacts,
    static: StaticFacts | None = None,
    constants: Constants = FITTED,
) -> AttentionBreakdown:
    """Predict one launch over a paged cache, and the second that joins splits.

    Keys and values cross from memory once per row block (more row blocks of a head find them in L2). An iteration takes
    the longest of its pipes over the programs of an SM, or its own chain, or the latency of the load issued before it.
    """
    kv_size = BYTES[problem.kv]
    row_blocks = math.ceil(problem.rows_per_kv_head / tile.block_m)
    programs = problem.num_seqs * problem.num_kv_heads * row_blocks * tile.num_splits
    # A causal row block of a prompt sees, on average, the keys before its middle.
    keys = problem.context_tokens - (problem.query_tokens - 1) / 2
    iterations = math.ceil(keys / tile.num_splits / tile.block_n)

    kv_bytes = 2 * tile.block_n * problem.head_dim * kv_size
    shared = tile.block_m * problem.head_dim * 2 + max(tile.num_stages - 1, 1) * kv_bytes
    blocks = _blocks_per_sm(problem, tile, gpu, shared)
    if static is not None:
        shared = static.shared_bytes if static.shared_bytes is not None else shared
        blocks = static.blocks_per_sm if static.blocks_per_sm is not None else blocks
    instructions = _instructions(problem, tile, gpu)
    if static is not None and static.loop_instructions is not None:
        instructions = float(static.loop_instructions)

    scores = tile.block_m * tile.block_n
    share = constants.synchronous_share if gpu.has_warpgroup_mma else constants.synchronous_efficiency
    efficiency = constants.warpgroup_efficiency if gpu.has_warpgroup_mma and tile.block_m >= 64 else share
    cycles = {
        "tensor": 4 * scores * problem.head_dim / (gpu.flops_per_clock["bf16"] * efficiency),
        "exp": scores / EXP2_PER_CLOCK,
        "issue": instructions * tile.num_warps / SCHEDULERS,
        # written once, read as fragments once
        "shared_memory": 2 * kv_bytes / SHARED_BYTES_PER_CLOCK,
        "l2": kv_bytes / constants.l2_bytes_per_clock,
    }
    # The second product needs the exponentials of the first: within a block they do not overlap.
    chain = cycles["tensor"] + cycles["exp"] + constants.synchronous_wait_cycles
    chain += constants.cycles_per_instruction * instructions
    latency = constants.latency_ns * gpu.clock_ghz / max(tile.num_stages - 1, 1)

    resident = min(blocks, max(programs / gpu.num_sms, 1.0))
    waves = math.ceil(programs / (gpu.num_sms * blocks))
    to_us = 1e-3 / gpu.clock_ghz
    unique = 2 * problem.num_seqs * problem.context_tokens * problem.num_kv_heads * problem.head_dim * kv_size
    unique += 4 * problem.num_seqs * problem.query_tokens * problem.num_q_heads * problem.head_dim
    pipes_us = {name: waves * iterations * resident * each * to_us for name, each in cycles.items()}
    start = start_us(gpu, constants)
    pipes_us["chain"] = (waves * iterations * max(chain, latency)) * to_us + (waves - 1) * start
    pipes_us["memory"] = unique / (gpu.memory_bandwidth_gbps * 1e3 * STREAM_EFFICIENCY)
    pipes_us["reduction"] = reduction_us(problem, tile.num_splits, gpu, constants)
    overlapped = max(us for name, us in pipes_us.items() if name != "reduction")
    refusal = None
    if shared > gpu.shared_per_block_bytes:
        refusal = (
            f"needs {shared:.0f} bytes of shared memory, a block on {gpu.name} may have {gpu.shared_per_block_bytes}; "
            f"use fewer stages or fewer keys at a time"
        )
    return AttentionBreakdown(
        time_us=math.inf if refusal else start + overlapped + pipes_us["reduction"],
        pipes_us=pipes_us | {"start": start},
        blocks_per_sm=blocks,
        num_programs=programs,
        refusal=refusal,
    )


def reduction_us(problem: AttentionProblem, num_splits: int, gpu: GpuFacts, constants: Constants = FITTED) -> float:
    """Of joining splits: partial outputs and their log-sum-exp in fp32, written and read back by a launch of its own."""
    if num_splits == 1:
        return 0.0
    rows = problem.num_seqs * problem.query_tokens * problem.num_q_heads
    row_bytes = (problem.head_dim + 1) * 4
    return memory_time_us(2 * rows * num_splits * row_bytes, rows, num_splits * row_bytes, gpu, 8, constants)


def _instructions(problem: AttentionProblem, tile: AttentionTile, gpu: GpuFacts) -> float:
    """Per warp and iteration."""
    elements = 2 * tile.block_n * problem.head_dim
    kv_size = BYTES[problem.kv]
    loads = 4 * elements * kv_size / (_LOAD_BYTES * gpu.lanes * tile.num_warps)
    # Where warps share out rows, each reads all keys; 16 rows are not shared out, and then warps share out keys.
    readers = max(1, min(tile.num_warps, tile.block_m // 16))
    fragments = elements * 2 * readers / (_LOAD_BYTES * gpu.lanes * tile.num_warps)
    per_lane = tile.block_m * tile.block_n / (gpu.lanes * tile.num_warps)
    conversions = elements * _CONVERSIONS_PER_ELEMENT / (gpu.lanes * tile.num_warps) * readers if kv_size < 2 else 0.0
    kv_blocks = max(tile.block_n / tile.kv_block_size, 1.0)
    return (
        _FIXED_INSTRUCTIONS
        + loads
        + fragments
        + per_lane * _SOFTMAX_INSTRUCTIONS
        + conversions
        + kv_blocks * _BLOCK_INSTRUCTIONS
    )


def _blocks_per_sm(problem: AttentionProblem, tile: AttentionTile, gpu: GpuFacts, shared: float) -> int:
    outputs = tile.block_m * (problem.head_dim + tile.block_n + problem.head_dim / 2) / (gpu.lanes * tile.num_warps)
    registers = min(50 + outputs, gpu.max_registers)
    fit = (
        gpu.shared_per_sm_bytes / (shared + 1024),
        gpu.registers_per_sm / (registers * gpu.lanes * tile.num_warps),
        gpu.max_warps_per_sm / tile.num_warps,
    )
    return max(1, int(min(fit)))
