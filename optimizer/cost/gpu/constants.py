"""The constants of the matmul time model that no data sheet states."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Constants:
    """Efficiencies, latencies and preferences, fitted by `benchmarks/fit_ranker.py` on part of the tuned files for H100.

    They were fitted together and stand in for each other: not one of them is a measurement. What can be counted instead
    (registers, instructions of the loop, shared memory) was read from kernels compiled by Triton 3.9: see `resources.py`.
    """

    warpgroup_efficiency: float = 0.529
    """Of the peak, of wgmma and tcgen05."""
    synchronous_efficiency: float = 0.85
    """Of the peak, of mma.sync where it is the only one."""
    synchronous_share: float = 0.232
    """Of the peak, of mma.sync on a GPU whose peak is that of the warpgroup unit."""
    latency_ns: float = 1120.0
    """From the issue of a load to the arrival of its bytes, under load."""
    gather: float = 0.822
    """The same with rows gathered through an index, as a factor."""
    lost_stage: float = 0.25
    """Stages of prefetch that the warpgroup unit holds on to."""
    first_load_ns: float = 716.0
    warpgroup_wait_cycles: float = 203.0
    """Fixed cost of one iteration: waiting, barriers, address arithmetic that depends on it."""
    synchronous_wait_cycles: float = 149.0
    tensor_memory_wait_cycles: float = 400.0
    block_scale_cycles: float = 203.0
    """Waiting for the product before it is scaled, and for its scales."""
    widen_shared_cycles: float = 126.0
    """Writing a widened operand back to shared memory for the warpgroup unit."""
    cycles_per_instruction: float = 3.18
    """Of a warp alone on its scheduler."""
    conversion_cost: float = 4.53
    """Instructions per pair of fp8 that is widened for mma.sync on sm_90."""
    second_warpgroup_cycles: float = 53.5
    """Barriers of 8 warps instead of 4, each iteration."""
    l2_bytes_per_clock: float = 15.8
    """That one SM gets."""
    memory_efficiency: float = 0.766
    """Of the bandwidth on the data sheet."""
    overlap: float = 1.82
    """Exponent of the norm that joins pipes: infinite if they overlapped perfectly."""
    spill: float = 5.69
    """Registers that the compiler moves for each one that is missing."""
    block_start_cycles: float = 1490.0
    warp_start_cycles: float = 76.8
    stage_start_cycles: float = 799.0
    """Of filling one more stage before the loop, and of the bytes it fetches past the end."""
    store_cost: float = 2.47
    quantization: float = 0.994
    """0: the last wave costs its share; 1: it costs a whole wave."""
    lockstep: float = 0.275
    """Two warpgroups that share 64 rows, or scale the same sum, wait for each other: a share of the time of their loop."""
    synchronous_lockstep: float = 0.142
    short_k: float = 0.0456
    """Blocks of less than 128 in k: half the work per barrier."""
    two_stages: float = 0.0449
    four_stages: float = -0.00569
    five_stages: float = 0.059
    """Preferences among near-ties: two stages hide one load, a fifth is rarely worth its shared memory."""


FITTED = Constants()
