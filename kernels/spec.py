"""The contract of an op as data: tensors, axes, cost, inputs, tolerance. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Argument = Array | float | int | None
Arguments = dict[str, Argument]
Bound = TypeVar("Bound")

#: dtype names of the contract -> (numpy storage dtype, C element type). On a GPU `act` stands for the dtype of activations,
#: which a model chooses (bf16 or f16): `OpSpec.typed` puts it in.
DTYPES: dict[str, tuple[str, str]] = {
    "f32": ("float32", "float"),
    "f16": ("float16", "uint16_t"),
    "bf16": ("uint16", "uint16_t"),
    "e4m3": ("uint8", "uint8_t"),
    "i8": ("int8", "int8_t"),
    "u8": ("uint8", "uint8_t"),
    "i32": ("int32", "int32_t"),
    "u32": ("uint32", "uint32_t"),
    "i64": ("int64", "int64_t"),
}


_DERIVED = re.compile(r"(\w+)([+*/])(\d+)")


@cache
def axis_name(axis: str | int) -> str | None:
    """The name that an axis is or derives from: `K` for "K" and for "K/32"; None for a fixed extent."""
    if isinstance(axis, int):
        return None
    derived = _DERIVED.fullmatch(axis)
    return derived[1] if derived else axis


def axis_extent(axis: str | int, sizes: Mapping[str, int]) -> int:
    """The extent of an axis, given those of the named ones."""
    if isinstance(axis, int):
        return axis
    name, operation, number = _derivation(axis)
    extent = sizes[name]
    if operation == "/":
        return -(-extent // number)
    return extent * number if operation == "*" else extent + number


def axis_divisor(axis: str | int) -> int:
    """8 for "K/8"; 1 for an axis that is not divided."""
    _, operation, number = _derivation(axis) if isinstance(axis, str) else ("", "", 1)
    return number if operation == "/" else 1


@cache
def _derivation(axis: str) -> tuple[str, str, int]:
    """What `axis_extent` does: "N/16" is a name, an operation and a number."""
    derived = _DERIVED.fullmatch(axis)
    return (derived[1], derived[2], int(derived[3])) if derived else (axis, "+", 0)


@dataclass(frozen=True)
class Tensor:
    """One tensor of an op; row-major, contiguous but for the first axis.

    An axis is a name, an int for a fixed extent, or derived from a name: "S+1", "F*2", "N/16" (rounded up). Every name
    stands plainly in some tensor that is not optional, so that shapes alone give its extent.
    """

    name: str
    dtype: str
    axes: tuple[str | int, ...]
    role: Literal["in", "out", "inout", "scratch"] = "in"
    """`scratch` is room to work in: zeros before the first call, and left as the next call needs it."""
    optional: bool = False
    is_added: bool = False
    """Whether it came later than its entry point. Its field of the C struct is behind all others, where older libraries do not
    look, so it is optional."""

    @property
    def is_output(self) -> bool:
        return self.role in ("out", "inout")


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
    """Accepted error as a multiple of that of the reference run in the kernel's dtypes, both against the reference in fp64."""
    backend: Literal["cpu", "gpu"] = "cpu"

    @property
    def constant(self) -> tuple[str, ...]:
        """The named axes that are not variable, in order of appearance."""
        names = dict.fromkeys(axis_name(axis) for tensor in self.tensors for axis in tensor.axes)
        return tuple(name for name in names if name is not None and name not in self.variable)

    def strided(self, tensor: Tensor) -> bool:
        """Whether rows of `tensor` may lie further apart than they are long."""
        return len(tensor.axes) > 1 and axis_name(tensor.axes[0]) in self.variable

    def sizes(self, arguments: Mapping[str, object]) -> dict[str, int]:
        """Extent of every named axis, read off whatever has a shape; a variable axis is as long as its shortest array."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            shape = getattr(arguments.get(tensor.name), "shape", ())
            if len(shape) == len(tensor.axes):
                for axis, extent in zip(tensor.axes, shape, strict=True):
                    if isinstance(axis, str) and axis == axis_name(axis):
                        sizes[axis] = min(extent, sizes.get(axis, extent)) if axis in self.variable else extent
        return sizes

    def cut(self, arguments: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
        """`arguments` as they are in a call of `sizes`: variable axes cut, scalars of these names filled in, None for a tensor
        that is left out. Arrays may be of numpy or torch."""
        found = {}
        for tensor in self.tensors:
            value, first = arguments.get(tensor.name), tensor.axes[0]
            if value is not None and axis_name(first) in sizes:
                value = value[: axis_extent(first, sizes)]
            found[tensor.name] = value
        for scalar in self.scalars:
            found[scalar.name] = sizes[scalar.name] if scalar.name in sizes else arguments[scalar.name]
        return found

    def typed(self, act: str) -> OpSpec:
        """This spec with activations of dtype `act`."""
        tensors = tuple(replace(tensor, dtype=act) if tensor.dtype == "act" else tensor for tensor in self.tensors)
        return replace(self, tensors=tensors)

    def tensor(self, name: str) -> Tensor:
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(f"{self.symbol} has no tensor {name!r}; it has {', '.join(t.name for t in self.tensors)}")


@dataclass(frozen=True)
class Call(Generic[Bound]):
    """One op of a step, bound to its buffers. `counters` names the counter of each variable axis, and of each scalar that a
    step changes.

    `label` is the part of the model that it computes, such as `layers.3.qkv`, for those who read a profile.
    """

    symbol: str
    arguments: Mapping[str, Bound]
    counters: Mapping[str, str]
    label: str = ""


CpuCall: TypeAlias = Call[Argument]


@dataclass(frozen=True)
class Program:
    """Calls in order, over fixed buffers; `counters` are one-element int64 arrays that a step sets before it runs."""

    calls: tuple[CpuCall, ...]
    counters: Mapping[str, NDArray[np.int64]]
