"""What a GPU entry point must compute, and how far off it may be.

The reference in fp64 is the truth. The same reference in the kernel's own dtypes, rounding where the kernel rounds, is the
yardstick: a kernel may be off by a small multiple of what those roundings cost, never by more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from kernels import registry
from kernels.gpu.tensors import TORCH_DTYPES
from kernels.spec import Arguments, Array, OpSpec

#: Half the distance from 1 to the next number.
EPSILON = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-9, "e4m3": 2.0**-4}
#: On small cases the reference may be exact by luck; so many half-ulps of the largest element may always be lost.
FLOOR = 2.0
#: An integer that is rounded from a value may fall to either side of a tie.
INTEGERS = ("i8", "u8", "i32", "u32", "i64")

Values: TypeAlias = dict[str, object]


@dataclass(frozen=True)
class Expected:
    """An output in fp64, and the largest error that any element may have."""

    values: torch.Tensor
    allowed: float

    def error(self, written: torch.Tensor) -> float:
        """The largest error of an element; NaN where one is not a number."""
        return _largest_error(written.cpu().double(), self.values)


def values(spec: OpSpec, arguments: Arguments, wider: torch.dtype | None = None) -> Values:
    """Arguments as torch tensors of the spec's dtypes, strides kept; float tensors of dtype `wider` if it is given."""
    made: Values = {scalar.name: arguments[scalar.name] for scalar in spec.scalars}
    for tensor in spec.tensors:
        array = arguments.get(tensor.name)
        made[tensor.name] = _typed(array, tensor.dtype, wider) if isinstance(array, np.ndarray) else None
    return made


def outputs(spec: OpSpec, made: Values) -> dict[str, torch.Tensor]:
    """What `spec` writes, of its `values`."""
    return {t.name: v for t in spec.tensors if t.role != "in" and isinstance(v := made[t.name], torch.Tensor)}


def expected(spec: OpSpec, arguments: Arguments) -> dict[str, Expected]:
    """Every output of the call, by the reference."""
    oracle, yardstick = values(spec, arguments, torch.float64), values(spec, arguments)
    registry.reference(spec.symbol)(**oracle)
    registry.reference(spec.symbol)(**yardstick)
    naive = outputs(spec, yardstick)
    return {
        name: Expected(true.double(), _allowed(spec, name, true.double(), naive[name].double()))
        for name, true in outputs(spec, oracle).items()
    }


def _allowed(spec: OpSpec, name: str, true: torch.Tensor, naive: torch.Tensor) -> float:
    dtype = spec.tensor(name).dtype
    lost = _largest_error(naive, true)
    if dtype in INTEGERS:
        return max(1.0 if dtype == "i8" else 0.0, lost)
    finite = true[true.isfinite()].abs()
    largest = finite.max().item() if finite.numel() else 0.0
    return spec.tolerance * lost + FLOOR * EPSILON[dtype] * largest


def _largest_error(written: torch.Tensor, true: torch.Tensor) -> float:
    # Infinities agree where they are equal.
    error = torch.where(written == true, 0.0, (written - true).abs())
    return error.max().item() if error.numel() else 0.0


def _typed(array: Array, dtype: str, wider: torch.dtype | None) -> torch.Tensor:
    stored = torch.from_numpy(array)
    if dtype in ("bf16", "e4m3") and array.dtype in (np.uint16, np.uint8):
        stored = stored.view(TORCH_DTYPES[dtype])
    # What was drawn is rounded to the kernel's dtype first: the truth is of the same inputs.
    rounded = stored.to(TORCH_DTYPES[dtype])
    final = wider if wider is not None and rounded.dtype in (torch.float32, torch.float16, torch.bfloat16) else rounded.dtype
    # What lies between rows belongs to nobody: a huge number in every format, so that reading it shows (a maximum skips NaN).
    num_elements = 1 + sum((extent - 1) * stride for extent, stride in zip(array.shape, stored.stride(), strict=True))
    room = torch.full((num_elements * final.itemsize if array.size else 0,), 0x7B, dtype=torch.uint8).view(final)
    return room.as_strided(array.shape, stored.stride()).copy_(rounded)
