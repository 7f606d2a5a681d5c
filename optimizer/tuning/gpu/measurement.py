"""Candidates measured on the GPU that they are for: CUDA events, L2 flushed, A B A B. No GPU has run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from kernels.gpu.cuda import CudaDriver
from kernels.gpu.frozen import FrozenKernels
from kernels.gpu.launch import OpPlan
from kernels.gpu.launcher import Launcher
from kernels.gpu.target import Target
from optimizer.measure.timing import typical_ms

_ROUNDS = 21
#: Written before every run, so that nothing of it is in L2: twice the largest L2 of a known device (256 MiB of MI300X).
_FLUSHED_BYTES = 512 * 2**20


class Clock(Protocol):
    def elapsed_us(self, run: Callable[[], None]) -> float:
        """Microseconds that the device takes for one run, from a cold L2."""
        ...


class Measurer(Protocol):
    """`device` is where it takes its tensors."""

    @property
    def device(self) -> str: ...

    def times_us(self, plans: Sequence[OpPlan], kernels: FrozenKernels, tensors: Mapping[str, torch.Tensor]) -> list[float]:
        """Typical microseconds of each plan over the same tensors."""
        ...


class EventClock:
    """`Clock` of the current CUDA device."""

    def __init__(self) -> None:
        self._flushed = torch.empty(_FLUSHED_BYTES, dtype=torch.int8, device="cuda")

    def elapsed_us(self, run: Callable[[], None]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self._flushed.zero_()
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e3


class CudaMeasurer:
    """`Measurer` on the current CUDA device: every plan is a graph of its launches, as it is in service."""

    device = "cuda"

    def __init__(self) -> None:
        self._driver, self._clock = CudaDriver(), EventClock()

    def times_us(self, plans: Sequence[OpPlan], kernels: FrozenKernels, tensors: Mapping[str, torch.Tensor]) -> list[float]:
        launcher = Launcher(self._driver, kernels)
        return interleaved_us([_graph(launcher, plan, tensors) for plan in plans], self._clock)


def measurer_for(target: Target) -> CudaMeasurer | None:
    """What measures on this machine, if it has the GPU that is tuned for."""
    if target.arch.backend != "cuda" or not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return CudaMeasurer() if target.arch.name == f"sm_{major}{minor}" else None


def interleaved_us(runs: Sequence[Callable[[], None]], clock: Clock, rounds: int = _ROUNDS) -> list[float]:
    """Typical microseconds of each run. A round has one of each, in an order that turns, after one that does not count."""
    samples: list[list[float]] = [[] for _ in runs]
    for run in runs:
        clock.elapsed_us(run)
    for turn in range(rounds):
        for step in range(len(runs)):
            index = (turn + step) % len(runs)
            samples[index].append(clock.elapsed_us(runs[index]))
    return [typical_ms(each) for each in samples]


def _graph(launcher: Launcher, plan: OpPlan, tensors: Mapping[str, torch.Tensor]) -> Callable[[], None]:
    prepared = launcher.prepare(plan, tensors)
    prepared.run(torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        prepared.run(torch.cuda.current_stream().cuda_stream)
    replay: Callable[[], None] = graph.replay
    return replay
