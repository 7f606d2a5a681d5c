"""fp32 and bf16: `weight` [N, K], bf16 as its bit patterns u16. On a GPU bf16 alone, row-major."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.bfloat16 import from_bf16, to_bf16
from kernels.formats.format import CpuPacking, Decoded, Format, GpuPacking, Parts, kept, kept_of
from kernels.spec import Array, Tensor


def _decode(parts: Parts) -> Decoded:
    weight = parts["weight"]
    return Decoded(from_bf16(weight) if weight.dtype == np.uint16 else weight)


def _random_fp32(rng: np.random.Generator, values: NDArray[np.float32], group_size: int) -> dict[str, Array]:
    return {"weight": values}


def _random_bf16(rng: np.random.Generator, values: NDArray[np.float32], group_size: int) -> dict[str, Array]:
    return {"weight": to_bf16(values.astype(np.float32))}


FP32 = Format(
    "fp32", _decode, (CpuPacking("fp32", ("fp32",), (Tensor("weight", "f32", ("N", "K")),), kept, kept, _random_fp32),)
)
BF16 = Format(
    "bf16",
    _decode,
    (CpuPacking("bf16", ("bf16",), (Tensor("weight", "bf16", ("N", "K")),), kept, kept, _random_bf16),),
    (GpuPacking("bf16", (Tensor("weight", "bf16", ("N", "K")),), "gpu_matmul", kept, kept_of, embedding="w16", experts="w16"),),
)
