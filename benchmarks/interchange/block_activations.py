"""A bundle's program as llama.cpp would run it: what meets a quantized matrix is rounded to 8 bits in blocks of 32.

That is ggml's Q8_0 beside Q4_0 and Q8_0 matrices, and Q8_1, the same with sums, beside Q4_1: in each block of a row the scale
is max |x| / 127 and codes are x / scale rounded to nearest; the scale is stored in fp16. Source: ggml's ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels.reference import ReferenceProgram
from kernels.spec import Program

_BLOCK = 32
_QUANTIZED = ("quant_matmul_int8", "quant_matmul_int4_sym", "quant_matmul_int4_asym")


class BlockActivations(ReferenceProgram):
    """A program by its references, inputs of its quantized matrices in float rounded first."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self._calls = [
            (spec, _after_rounding(reference) if spec.symbol in _QUANTIZED else reference, arguments, counters)
            for spec, reference, arguments, counters in self._calls
        ]


def _after_rounding(reference: Callable[..., None]) -> Callable[..., None]:
    def run(x: Tensor, **others: Any) -> None:
        reference(x=rounded(x), **others)

    return run


def rounded(x: Tensor) -> Tensor:
    """fp32 [T, K] through int8 in blocks of 32 columns with an fp16 scale."""
    blocks = x.unflatten(1, (-1, _BLOCK))
    scales = blocks.abs().amax(dim=2, keepdim=True) / 127
    inverse = torch.where(scales > 0, 1 / scales, 0.0)
    return ((blocks * inverse).round() * scales.half().float()).flatten(1)
