"""How long an op takes that does little but move bytes."""

from __future__ import annotations

import math

from optimizer.cost.gpu.constants import FITTED, Constants
from optimizer.cost.gpu.facts import GpuFacts

#: of the bandwidth on a data sheet, what a well-made copy reaches
STREAM_EFFICIENCY = 0.92


def start_us(gpu: GpuFacts, constants: Constants = FITTED) -> float:
    """From the launch of a program to the arrival of its first bytes."""
    return (constants.block_start_cycles / gpu.clock_ghz + constants.first_load_ns) / 1e3


def memory_time_us(
    num_bytes: float,
    num_programs: float,
    bytes_in_flight_per_program: float,
    gpu: GpuFacts,
    programs_per_sm: int = 4,
    constants: Constants = FITTED,
) -> float:
    """Microseconds to move `num_bytes`, shared evenly by `num_programs`, of which an SM holds `programs_per_sm` at a time.

    A program has at most `bytes_in_flight_per_program` under way, and each byte is under way for the loaded latency (Little's
    law), so few programs, or shallow ones, do not reach the bandwidth however long they run. The last wave costs a whole one.
    """
    if min(num_bytes, num_programs, bytes_in_flight_per_program, programs_per_sm) <= 0:
        raise ValueError(
            f"bytes, programs and bytes in flight must be positive, got {num_bytes}, {num_programs}, "
            f"{bytes_in_flight_per_program} ({programs_per_sm} programs per SM)"
        )
    at_bandwidth = num_bytes / (gpu.memory_bandwidth_gbps * 1e3 * STREAM_EFFICIENCY)
    waves = math.ceil(num_programs / (gpu.num_sms * programs_per_sm))
    round_trips = max(num_bytes / num_programs / bytes_in_flight_per_program, 1.0)
    at_latency = waves * round_trips * constants.latency_ns / 1e3
    return start_us(gpu, constants) + max(at_bandwidth, at_latency)
