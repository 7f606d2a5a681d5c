"""One contract for every GPU entry point: what it writes lies within the tolerance of the truth, and what it reads stays.

What it must write, and how far off it may be: kernels/gpu/oracle.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch

from kernels import registry
from kernels.gpu.launch import OpPlan, Problem
from kernels.gpu.oracle import Values, expected, outputs, values
from kernels.gpu.target import Target
from kernels.gpu.tensors import problem
from kernels.gpu.tuning import Point
from kernels.spec import Arguments, Case, OpSpec

TARGET = Target.of("sm_90", 132)

Run: TypeAlias = Callable[[OpPlan, Mapping[str, torch.Tensor | None]], None]


def cases(act: str) -> list[tuple[OpSpec, Case]]:
    """Every GPU entry point with every case of its spec."""
    return [(spec.typed(act), case) for spec in registry.specs("gpu").values() for case in spec.cases]


def make(spec: OpSpec, case: Case, seed: int = 0) -> Arguments:
    return spec.make_inputs(np.random.default_rng(seed), case)


def call(spec: OpSpec, case: Case) -> Problem:
    """The call of a case: shapes without data."""
    return problem(spec, values(spec, make(spec, case)))


def tensors(spec: OpSpec, made: Values) -> dict[str, torch.Tensor | None]:
    """The tensors among `values`, those that are left out None."""
    return {t.name: value if isinstance(value := made[t.name], torch.Tensor) else None for t in spec.tensors}


def violations(spec: OpSpec, case: Case, run: Run, point: Point | None = None, target: Target = TARGET) -> list[str]:
    """What a backend gets wrong on `case`: outputs out of tolerance, and inputs that it changed."""
    arguments = make(spec, case)
    got, given = values(spec, arguments), values(spec, arguments)
    true = expected(spec, arguments)
    run(registry.plan_call(problem(spec, got), target, point), tensors(spec, got))

    found = []
    for name, written in outputs(spec, got).items():
        # Not `>`: an error that is not a number is one.
        if not (error := true[name].error(written)) <= true[name].allowed:
            found.append(f"{name}: error {error:.3g} exceeds {true[name].allowed:.3g}")
    for tensor in spec.tensors:
        before, after = given[tensor.name], got[tensor.name]
        if tensor.role == "in" and isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
            same = before.contiguous().view(torch.uint8).equal(after.contiguous().view(torch.uint8)) if before.numel() else True
            found += [] if same else [f"{tensor.name}: is an input, and was changed"]
    return found
