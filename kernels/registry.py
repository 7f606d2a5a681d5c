"""Which ops there are: every folder beside this file that has a `spec.py`, found when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from kernels.spec import OpSpec
from kernels.tuning import Tuning

ROOT = Path(__file__).parent


@cache
def ops() -> tuple[str, ...]:
    """Names of the op folders, sorted."""
    return tuple(sorted(path.parent.name for path in ROOT.glob("*/spec.py")))


@cache
def specs() -> Mapping[str, OpSpec]:
    """Every entry point: symbol -> spec. An op's `spec.py` lists its own as `SPECS`."""
    return MappingProxyType({spec.symbol: spec for op in ops() for spec in import_module(f"kernels.{op}.spec").SPECS})


def spec(symbol: str) -> OpSpec:
    """The spec of `symbol`; ValueError names those there are."""
    if symbol not in specs():
        raise ValueError(f"no op has the entry point {symbol!r}; there are {', '.join(specs())}")
    return specs()[symbol]


@cache
def reference(symbol: str) -> Callable[..., None]:
    """The torch reference of `symbol`; imports torch."""
    function: Callable[..., None] = getattr(import_module(f"kernels.{spec(symbol).op}.reference"), symbol)
    return function


@cache
def tunings() -> Mapping[str, Tuning]:
    """Op -> what its kernel leaves open, for the ops that leave anything open."""
    tuned = (op for op in ops() if (ROOT / op / "tuning.py").exists())
    return MappingProxyType({op: import_module(f"kernels.{op}.tuning").TUNING for op in tuned})


def sources(op: str) -> Path:
    """The C++ source of `op`."""
    return ROOT / op / "cpu.cpp"
