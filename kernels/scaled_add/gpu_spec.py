"""As on a CPU, in fp32 and rounded once, in place; the stream and x in the dtype of activations."""

from __future__ import annotations

from dataclasses import replace

from kernels.scaled_add.spec import SPECS as CPU_SPECS
from kernels.scaled_add.spec import cost

SPECS = tuple(
    replace(
        spec,
        symbol=f"gpu_{spec.symbol}",
        tensors=tuple(tensor if tensor.name == "scale" else replace(tensor, dtype="act") for tensor in spec.tensors),
        cost=lambda sizes: cost(sizes, element_bytes=2),
        backend="gpu",
    )
    for spec in CPU_SPECS
)
