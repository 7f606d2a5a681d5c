"""What identifies a compiled kernel: its function, the types of its arguments, its constants, its options, its architecture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from kernels.gpu.launch import (
    DTYPES,
    F32,
    I32,
    I64,
    Constant,
    Descriptor,
    Launch,
    OpPlan,
    Problem,
    Ptr,
    RuntimeArgument,
    TensorMeta,
)


@dataclass(frozen=True)
class KernelSource:
    """A kernel to compile, or to find among the compiled. Pointers are always compiled as multiples of `ALIGNMENT` bytes.

    `signature` has the runtime parameters, (name, Triton's type); `constants` the compile-time ones, None for absent tensors.
    """

    op: str
    function: str
    arch: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Constant], ...]
    num_warps: int
    num_stages: int
    maxnreg: int | None = None

    @classmethod
    def of(cls, launch: Launch, tensors: Mapping[str, TensorMeta], arch: str) -> KernelSource:
        """The kernel of a launch over `tensors`: those of its call and its plan's workspaces."""
        return cls(
            op=launch.op,
            function=launch.function,
            arch=arch,
            signature=tuple(sorted((name, _type(argument, tensors)) for name, argument in launch.arguments.items())),
            constants=tuple(sorted(launch.constants.items())),
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
            maxnreg=launch.maxnreg,
        )

    @cached_property
    def identity(self) -> str:
        """sha256 over all of the above: by this a frozen kernel is found, whatever it was compiled with."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> dict[str, object]:
        """As JSON values, for the compiler's worker and for the table of a bundle."""
        return {
            "op": self.op,
            "function": self.function,
            "arch": self.arch,
            "signature": [list(parameter) for parameter in self.signature],
            "constants": dict(self.constants),
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "maxnreg": self.maxnreg,
        }


def kernel_sources(plan: OpPlan, problem: Problem, arch: str) -> Iterator[KernelSource]:
    """The kernel of every launch of a plan, in order."""
    tensors = {**problem.tensors, **plan.workspaces}
    return (KernelSource.of(launch, tensors, arch) for launch in plan.launches)


def _type(argument: RuntimeArgument, tensors: Mapping[str, TensorMeta]) -> str:
    match argument:
        case Ptr(tensor):
            return f"*{DTYPES[tensors[tensor].dtype][1]}"
        case Descriptor(tensor, block_shape=block_shape):
            return f"tensordesc<{DTYPES[tensors[tensor].dtype][1]}[{', '.join(map(str, block_shape))}]>"
        case I32():
            return "i32"
        case I64():
            return "i64"
        case F32():
            return "fp32"
