"""Times of ops that do little but move bytes: rows that are read, changed and written."""

from __future__ import annotations

from math import inf, prod

import numpy as np

from kernels.gpu.launch import Launch, Problem
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point
from kernels.registry import gpu_tuning, planner, spec
from optimizer.cost.gpu.constants import FITTED
from optimizer.cost.gpu.facts import GpuFacts
from optimizer.cost.gpu.memory_time import STREAM_EFFICIENCY, memory_time_us, start_us
from optimizer.cost.gpu.pipes import SCHEDULERS, Array
from optimizer.cost.gpu.resources import StaticFacts
from optimizer.tuning.gpu.grid import PointGrid
from optimizer.tuning.gpu.time_model import LAUNCH_US, Modelled

#: Of a lane, for each byte of a row that it reads or writes: about four for an element of two bytes that goes through fp32
#: and back. A compiled kernel's own count replaces it.
_INSTRUCTIONS_PER_BYTE = 1.0
_FIXED_INSTRUCTIONS = 60
#: of an SM, whatever their size
_MAX_PROGRAMS_PER_SM = 32


class MemoryModel:
    """`TimeModel` by the op's own count of bytes (`OpSpec.cost`) and the launches of its plan."""

    blind: frozenset[str] = frozenset()

    def __init__(self, gpu: GpuFacts, target: Target, context_tokens: int) -> None:
        self._gpu, self._target, self._context = gpu, target, context_tokens

    def times_us(self, problem: Problem, grid: PointGrid) -> Array:
        refusal = gpu_tuning(spec(problem.symbol).op).refusal
        points = (grid.point(index) for index in range(len(grid)))
        return np.array(
            [
                inf if refusal(problem, point, self._target) is not None else self.modelled(problem, point).time_us
                for point in points
            ]
        )

    def modelled(self, problem: Problem, point: Point, static: StaticFacts | None = None) -> Modelled:
        launches = planner(spec(problem.symbol).op)(problem, point, self._target).launches
        main = main_launch(launches)
        num_bytes = moved_bytes(problem, self._context)
        others = (len(launches) - 1) * (start_us(self._gpu) + LAUNCH_US)
        return Modelled(
            time_us=LAUNCH_US + others + self._launch_us(launches[main], num_bytes, static),
            memory_us=num_bytes / (self._gpu.memory_bandwidth_gbps * 1e3 * STREAM_EFFICIENCY),
        )

    def _launch_us(self, launch: Launch, num_bytes: float, static: StaticFacts | None) -> float:
        gpu, num_programs = self._gpu, max(1, prod(launch.grid))
        of_program = max(num_bytes / num_programs, 1.0)
        instructions = _FIXED_INSTRUCTIONS + of_program / (launch.num_warps * gpu.lanes) * _INSTRUCTIONS_PER_BYTE
        per_sm = max(1, min(_MAX_PROGRAMS_PER_SM, gpu.max_warps_per_sm // launch.num_warps))
        trips = 1.0
        if launch.streamed_bytes:
            trips = max(1.0, of_program / launch.streamed_bytes)
        if static is not None:
            instructions = trips * (static.loop_instructions or instructions / trips)
            per_sm = static.blocks_per_sm or per_sm
        in_flight = of_program / trips
        # All programs of an SM issue from its schedulers; one program's instructions wait for each other.
        waves = -(-num_programs // (gpu.num_sms * per_sm))
        issue = num_programs / gpu.num_sms * instructions * launch.num_warps / SCHEDULERS
        chain = waves * FITTED.cycles_per_instruction * instructions
        cycles_us = 1e-3 / gpu.clock_ghz
        memory = memory_time_us(max(num_bytes, 1.0), num_programs, max(in_flight, 1.0), gpu, per_sm)
        return max(memory, start_us(gpu) + issue * cycles_us) + chain * cycles_us


def main_launch(launches: tuple[Launch, ...]) -> int:
    """Which launch of a plan does its work: the one that streams most at a time, else the one of most programs."""
    return max(range(len(launches)), key=lambda i: (launches[i].streamed_bytes, prod(launches[i].grid), -i))


def moved_bytes(problem: Problem, context_tokens: int) -> float:
    """What a call must move at least, by its spec."""
    contract = spec(problem.symbol)
    shapes = {name: tensor for name, tensor in problem.tensors.items()}
    present = {tensor.name: int(tensor.name in problem) for tensor in contract.tensors if tensor.optional}
    scalars = {name: int(value) for name, value in problem.scalars.items()}
    return contract.cost({"context": context_tokens, **present, **scalars, **contract.sizes(shapes)}).bytes
