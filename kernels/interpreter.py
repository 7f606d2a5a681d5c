"""Runs launches through Triton's interpreter, on tensors of the host: how kernels are proved where there is no GPU.

Triton decides between interpreter and compiler when it is imported: the process must have started with TRITON_INTERPRET=1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.gpu.launch import Descriptor, Launch, OpPlan, Ptr, RuntimeArgument
from kernels.gpu.tensors import empty


class Interpreted:
    """The launches of a plan over fixed tensors."""

    def __init__(self, launches: Iterable[Callable[[], None]]) -> None:
        self._launches = list(launches)

    def run(self, stream: int = 0) -> None:
        """Every launch in order; there are no streams here."""
        for launch in self._launches:
            launch()


class Interpreter:
    """Runs the launches of a plan. `modules` replaces the triton.py of an op, by op: how a seeded bug is tried."""

    def __init__(self, modules: Mapping[str, ModuleType] | None = None) -> None:
        if not triton.knobs.runtime.interpret:
            raise RuntimeError("the interpreter needs TRITON_INTERPRET=1 in the environment before triton is imported; set it")
        self._modules = dict(modules or {})

    def run(self, plan: OpPlan, tensors: Mapping[str, torch.Tensor | None]) -> None:
        """Every launch in order, over `tensors` by name; workspaces are made here."""
        self.prepare(plan, tensors).run()

    def prepare(self, plan: OpPlan, tensors: Mapping[str, torch.Tensor | None]) -> Interpreted:
        """The same, to be run as often as wanted."""
        memory = {name: empty(meta) for name, meta in plan.workspaces.items()}
        memory |= {name: tensor for name, tensor in tensors.items() if tensor is not None}
        return Interpreted(partial(self._launch, launch, memory) for launch in plan.launches)

    def _launch(self, launch: Launch, memory: Mapping[str, torch.Tensor]) -> None:
        if 0 in launch.grid:
            return
        module = self._modules.get(launch.op) or import_module(f"kernels.{launch.op}.triton")
        arguments = {name: _argument(argument, memory) for name, argument in launch.arguments.items()}
        getattr(module, launch.function)[launch.grid](**arguments, **launch.constants)


def _argument(argument: RuntimeArgument, memory: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(argument, Ptr):
        return memory[argument.tensor]
    if isinstance(argument, Descriptor):
        base = memory[argument.tensor]
        return TensorDescriptor(base, list(argument.shape), list(argument.strides), list(argument.block_shape))
    return argument.value
