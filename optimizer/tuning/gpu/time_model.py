"""What every time model of an op answers, and what a launch costs before it does anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kernels.gpu.launch import Problem
from kernels.gpu.tuning import Point
from optimizer.cost.gpu.facts import GpuFacts
from optimizer.cost.gpu.pipes import Array
from optimizer.cost.gpu.resources import StaticFacts
from optimizer.tuning.gpu.grid import PointGrid

#: Between the end of one kernel of a CUDA graph and the start of the next. An assumption: NVIDIA reports about half a
#: microsecond for a graph of short kernels on a V100 (A. Gray, "Getting Started with CUDA Graphs", 2019); doubled, because a
#: kernel here waits for what the one before wrote. With `memory_time.start_us` a launch that does nothing costs 2.5 us on H100.
LAUNCH_US = 1.0


@dataclass(frozen=True)
class Modelled:
    """One point's time in microseconds, launches included; what memory and the matrix units alone would need of it."""

    time_us: float
    memory_us: float
    tensor_us: float = 0.0
    expects_wgmma: bool = False
    """Whether the time takes for granted that the compiler uses wgmma."""

    @property
    def is_memory_bound(self) -> bool:
        """Whether memory needs more time than the matrix units."""
        return self.memory_us >= self.tensor_us


def expects_wgmma(gpu: GpuFacts, rows: int, num_warps: int) -> bool:
    """Whether a tile of so many rows is modelled at the rate of wgmma."""
    return gpu.arch == "sm_90" and rows >= 64 and num_warps >= 4


class TimeModel(Protocol):
    """Times of one op's points on one GPU. `blind`: parameters that do not enter the time."""

    @property
    def blind(self) -> frozenset[str]: ...

    def times_us(self, problem: Problem, grid: PointGrid) -> Array:
        """Microseconds of every point, launches included; infinite where the model knows that it cannot run."""
        ...

    def modelled(self, problem: Problem, point: Point, static: StaticFacts | None = None) -> Modelled:
        """One legal point; `static` is what the compiled kernel of its main launch says."""
        ...
