"""The contract of an op as data: tensors, axes, cost, inputs, tolerance. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Argument = Array | float | int | None
Arguments = dict[str, Argument]

#: dtype names of the contract -> (numpy storage dtype, C element type)
DTYPES: dict[str, tuple[str, str]] = {
    "f32": ("float32", "float"),
    "f16": ("float16", "uint16_t"),
    "bf16": ("uint16", "uint16_t"),
    "i8": ("int8", "int8_t"),
    "u8": ("uint8", "uint8_t"),
    "i32": ("int32", "int32_t"),
    "u32": ("uint32", "uint32_t"),
    "i64": ("int64", "int64_t"),
}


@dataclass(frozen=True)
class Tensor:
    """One tensor of an op. `axes` are names, or ints for fixed extents; row-major, contiguous but for the first axis."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]
    role: Literal["in", "out", "inout"] = "in"
    optional: bool = False


@dataclass(frozen=True)
class Scalar:
    name: str
    kind: Literal["f64", "i64"]


@dataclass(frozen=True)
class Cost:
    """What a call must move and compute at least. Units: bytes and floating-point (or integer) operations."""

    bytes: float
    flops: float


@dataclass(frozen=True)
class Case:
    """A named point at which an op is tested: sizes of axes and scalars, as its input builder understands them."""

    name: str
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class OpSpec:
    """One entry point of an op.

    `variable` axes are those that a step changes: their extents are read from counters when the call runs,
    and the buffers bound to them are as large as they may become.
    """

    symbol: str
    op: str
    summary: str
    tensors: tuple[Tensor, ...]
    scalars: tuple[Scalar, ...]
    variable: tuple[str, ...]
    source: str
    cases: tuple[Case, ...]
    make_inputs: Callable[[np.random.Generator, Case], Arguments]
    cost: Callable[[Mapping[str, int]], Cost]
    tolerance: float = 4.0
    """Accepted error as a multiple of the error of the reference run in fp32, both against the reference in fp64."""

    def tensor(self, name: str) -> Tensor:
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(f"{self.symbol} has no tensor {name!r}; it has {', '.join(t.name for t in self.tensors)}")


@dataclass(frozen=True)
class Call:
    """One op of a program, bound to its buffers. `counters` names the counter of each variable axis."""

    symbol: str
    arguments: Arguments
    counters: Mapping[str, str]


@dataclass(frozen=True)
class Program:
    """Calls in order, over fixed buffers; `counters` are one-element int64 arrays that a step sets before it runs."""

    calls: tuple[Call, ...]
    counters: Mapping[str, NDArray[np.int64]]
