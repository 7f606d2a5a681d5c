"""Which ops there are: every folder beside this file that has a spec, found when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

from kernels.gpu.launch import OpPlan, Problem
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point
from kernels.spec import OpSpec
from kernels.tuning import Tuning

Backend: TypeAlias = Literal["cpu", "gpu"]
OpPlanner: TypeAlias = Callable[[Problem, Point, Target], OpPlan]

ROOT = Path(__file__).parent
_SPEC_FILES: Mapping[Backend, str] = {"cpu": "spec", "gpu": "gpu_spec"}
_REFERENCE_FILES: Mapping[Backend, str] = {"cpu": "reference", "gpu": "gpu_reference"}


@cache
def ops(backend: Backend = "cpu") -> tuple[str, ...]:
    """Names of the op folders that have entry points for `backend`, sorted."""
    return tuple(sorted(path.parent.name for path in ROOT.glob(f"*/{_SPEC_FILES[backend]}.py")))


@cache
def specs(backend: Backend = "cpu") -> Mapping[str, OpSpec]:
    """Every entry point for `backend`: symbol -> spec. An op's spec file lists its own as `SPECS`."""
    modules = (import_module(f"kernels.{op}.{_SPEC_FILES[backend]}") for op in ops(backend))
    return MappingProxyType({spec.symbol: spec for module in modules for spec in module.SPECS})


@cache
def spec(symbol: str) -> OpSpec:
    """The spec of `symbol`; ValueError names those there are."""
    every = {**specs("cpu"), **specs("gpu")}
    if symbol not in every:
        raise ValueError(f"no op has the entry point {symbol!r}; there are {', '.join(every)}")
    return every[symbol]


@cache
def reference(symbol: str) -> Callable[..., None]:
    """The torch reference of `symbol`, a function of that name or one in the module's `REFERENCES`; imports torch."""
    found = spec(symbol)
    module = import_module(f"kernels.{found.op}.{_REFERENCE_FILES[found.backend]}")
    function: Callable[..., None] = getattr(module, "REFERENCES", {}).get(symbol) or getattr(module, symbol)
    return function


@cache
def tunings() -> Mapping[str, Tuning]:
    """Op -> what its CPU kernel leaves open, for the ops that leave anything open."""
    tuned = (op for op in ops() if (ROOT / op / "tuning.py").exists())
    return MappingProxyType({op: import_module(f"kernels.{op}.tuning").TUNING for op in tuned})


@cache
def gpu_tuning(op: str) -> GpuTuning:
    """What the Triton kernels of `op` leave open."""
    tuning: GpuTuning = import_module(f"kernels.{op}.gpu_tuning").TUNING
    return tuning


@cache
def planner(op: str) -> OpPlanner:
    """What turns a call of `op` into launches of its Triton kernels."""
    plan: OpPlanner = import_module(f"kernels.{op}.launch").plan
    return plan


def plan_call(problem: Problem, target: Target, point: Point | None = None) -> OpPlan:
    """The launches of a call, at `point` or at its op's default; ValueError if the point is not legal."""
    op = spec(problem.symbol).op
    tuning = gpu_tuning(op)
    chosen = tuning.default(problem, target) if point is None else point
    return planner(op)(problem, tuning.checked(problem, chosen, target), target)


def sources(op: str) -> tuple[Path, ...]:
    """The C++ of `op`: its source, and headers of its own."""
    return (ROOT / op / "cpu.cpp", *sorted((ROOT / op).glob("*.h")))
