"""A kernel launch as data: what an op's planner gives to the interpreter, the compiler and the launcher alike.

Whatever is fixed for a model (sizes of weights, strides, group sizes) is a compile-time constant; what a step changes (the
number of tokens and of sequences) is a runtime scalar. So one binary serves every batch size, and argument lists stay short.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

#: dtype names of the contract -> (bytes of an element, Triton's name of the element type)
DTYPES: Mapping[str, tuple[int, str]] = {
    "f32": (4, "fp32"),
    "f16": (2, "fp16"),
    "bf16": (2, "bf16"),
    "e4m3": (1, "fp8e4nv"),
    "i8": (1, "i8"),
    "u8": (1, "u8"),
    "i32": (4, "i32"),
    "u32": (4, "u32"),
    "i64": (8, "i64"),
}

#: What every pointer that reaches a kernel must be a multiple of, in bytes: kernels are compiled to rely on it.
ALIGNMENT = 16


@dataclass(frozen=True)
class TensorMeta:
    """A tensor without its data. `strides` in elements."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def contiguous(cls, dtype: str, *shape: int) -> TensorMeta:
        return cls(dtype, shape, tuple(prod(shape[axis + 1 :]) for axis in range(len(shape))))

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, whatever lies between them."""
        return prod(self.shape) * DTYPES[self.dtype][0]


@dataclass(frozen=True)
class Problem:
    """One call of an entry point: its tensors, those that are left out absent, and its scalars."""

    symbol: str
    tensors: Mapping[str, TensorMeta]
    scalars: Mapping[str, float | int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> TensorMeta:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors


@dataclass(frozen=True)
class Ptr:
    """The address of a tensor of the call, or of a workspace of its plan."""

    tensor: str


@dataclass(frozen=True)
class Descriptor:
    """A TMA descriptor: the tensor seen as `shape` with `strides` (elements, the last 1), fetched in boxes of `block_shape`.

    What lies outside `shape` reads as zero. The base and every stride but the last are multiples of 16 bytes.
    """

    tensor: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block_shape: tuple[int, ...]


@dataclass(frozen=True)
class I32:
    value: int


@dataclass(frozen=True)
class I64:
    value: int


@dataclass(frozen=True)
class F32:
    value: float


RuntimeArgument: TypeAlias = Ptr | Descriptor | I32 | I64 | F32
Constant: TypeAlias = int | float | bool | str | None


@dataclass(frozen=True)
class Launch:
    """One launch of `function` of `kernels/<op>/triton.py`.

    `arguments` are by parameter name; a tensor that is left out is the constant None. `streamed_bytes` is what one program
    reads from memory in one iteration of its hot loop, 0 where it has no loop: the issue bound is judged by it.
    """

    op: str
    function: str
    grid: tuple[int, int, int]
    arguments: Mapping[str, RuntimeArgument]
    constants: Mapping[str, Constant]
    num_warps: int = 4
    num_stages: int = 2
    maxnreg: int | None = None
    streamed_bytes: int = 0


@dataclass(frozen=True)
class OpPlan:
    """The launches of one call, in order, and the buffers that they share and nobody reads afterwards.

    A workspace is zeroed once, when it is allocated: a kernel that counts in one leaves it zero.
    """

    launches: tuple[Launch, ...]
    workspaces: Mapping[str, TensorMeta] = field(default_factory=dict)
