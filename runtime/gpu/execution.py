"""A step's calls, planned and prepared for the counts that they are run with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch

from kernels import registry
from kernels.gpu.launch import OpPlan, Problem, TensorMeta
from kernels.gpu.points import PointTable
from kernels.gpu.target import Target
from kernels.gpu.tensors import empty, problem
from runtime.gpu.program import Counts, GpuCall, bound


class Runnable(Protocol):
    """Launches over fixed tensors."""

    def run(self, stream: int = 0) -> None:
        """Enqueue them on a stream, without waiting."""
        ...


class Executor(Protocol):
    """What runs plans: the launcher of frozen kernels, or the interpreter."""

    def prepare(self, plan: OpPlan, tensors: Mapping[str, torch.Tensor | None]) -> Runnable: ...


class Planner:
    """Plans calls at the points of a table, or at the ops' defaults where there is no table; prepares them on an executor.

    Calls run one after the other, so those of an op share its workspaces: a kernel that counts in one leaves it zero.
    """

    def __init__(self, executor: Executor, target: Target, table: PointTable | None) -> None:
        self._executor, self._target, self._table = executor, target, table
        self._workspaces: dict[tuple[str, str, TensorMeta], torch.Tensor] = {}

    def prepare(self, calls: Iterable[GpuCall], counts: Counts) -> list[Runnable]:
        """The launches of every call in a step of `counts`. MissingPoint or KernelRefused where the bundle has no kernel."""
        return [self._prepare(call, counts) for call in calls]

    def _prepare(self, call: GpuCall, counts: Counts) -> Runnable:
        spec, arguments = registry.spec(call.symbol), bound(call, counts)
        tensors = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
        plan = self.plan(problem(spec, arguments))
        device = next(iter(tensors.values())).device
        for name, meta in plan.workspaces.items():
            key = (spec.op, name, meta)
            if key not in self._workspaces:
                self._workspaces[key] = empty(meta, device)
            tensors[name] = self._workspaces[key]
        return self._executor.prepare(OpPlan(plan.launches), tensors)

    def plan(self, problem: Problem) -> OpPlan:
        """The launches of one call."""
        return registry.plan_call(problem, self._target, None if self._table is None else self._table.point(problem))


def run_all(steps: Sequence[Runnable], stream: int = 0) -> None:
    for step in steps:
        step.run(stream)
