"""Times of ops that do little but move bytes: rows that are read, changed and written."""

from __future__ import annotations

from math import ceil, inf, prod

import numpy as np

from kernels.gpu.launch import Launch, Problem
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point
from kernels.registry import gpu_tuning, planner, spec
from kernels.spec import Cost
from optimizer.cost.gpu.constants import FITTED
from optimizer.cost.gpu.facts import GpuFacts
from optimizer.cost.gpu.memory_time import STREAM_EFFICIENCY, memory_time_us, start_us
from optimizer.cost.gpu.pipes import SCHEDULERS, Array
from optimizer.cost.gpu.resources import StaticFacts
from optimizer.tuning.gpu.grid import PointGrid
from optimizer.tuning.gpu.time_model import LAUNCH_US, Modelled

#: For each byte that is read or written: about four for an element of two bytes that goes through fp32 and back. Where an op
#: counts more operations than that, these; and a compiled kernel's own count replaces both.
_INSTRUCTIONS_PER_BYTE = 1.0
#: Under way at a time, where no loop says how much: as many elements in fp32 as `kernels.gpu.rows` lets a lane hold.
_MAX_BYTES_PER_LANE = 256
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
        cost = cost_of(problem, self._context)
        others = (len(launches) - 1) * (start_us(self._gpu) + LAUNCH_US)
        return Modelled(
            time_us=LAUNCH_US + others + self._launch_us(launches[main], cost, static),
            memory_us=cost.bytes / (self._gpu.memory_bandwidth_gbps * 1e3 * STREAM_EFFICIENCY),
        )

    def _launch_us(self, launch: Launch, cost: Cost, static: StaticFacts | None) -> float:
        gpu, num_programs = self._gpu, max(1, prod(launch.grid))
        num_lanes, num_bytes = launch.num_warps * gpu.lanes, max(cost.bytes, 1.0)
        of_program = num_bytes / num_programs
        in_flight = min(of_program, launch.streamed_bytes or _MAX_BYTES_PER_LANE * num_lanes)
        work = max(of_program * _INSTRUCTIONS_PER_BYTE, cost.flops / num_programs)
        instructions = _FIXED_INSTRUCTIONS + work / num_lanes
        per_sm = max(1, min(_MAX_PROGRAMS_PER_SM, gpu.max_warps_per_sm // launch.num_warps))
        if static is not None:
            per_sm = static.blocks_per_sm or per_sm
            if static.loop_instructions is not None:
                instructions = of_program / in_flight * static.loop_instructions
        # All programs of an SM issue from its schedulers; one program's instructions wait for each other.
        waves = ceil(num_programs / (gpu.num_sms * per_sm))
        issue = num_programs / gpu.num_sms * instructions * launch.num_warps / SCHEDULERS
        chain = waves * FITTED.cycles_per_instruction * instructions
        cycles_us = 1e-3 / gpu.clock_ghz
        memory = memory_time_us(num_bytes, num_programs, max(in_flight, 1.0), gpu, per_sm)
        return max(memory, start_us(gpu) + issue * cycles_us) + chain * cycles_us


def main_launch(launches: tuple[Launch, ...]) -> int:
    """Which launch of a plan does its work: the one that streams most at a time, else the one of most programs."""
    return max(range(len(launches)), key=lambda i: (launches[i].streamed_bytes, prod(launches[i].grid), -i))


def cost_of(problem: Problem, context_tokens: int) -> Cost:
    """What a call must move and compute at least, by its spec."""
    contract = spec(problem.symbol)
    present = {tensor.name: int(tensor.name in problem) for tensor in contract.tensors if tensor.optional}
    scalars = {name: int(value) for name, value in problem.scalars.items()}
    return contract.cost({"context": context_tokens, **present, **scalars, **contract.sizes(problem.tensors)})
