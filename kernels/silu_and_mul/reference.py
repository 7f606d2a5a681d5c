"""The activation of SwiGLU."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.quantize_activations.reference import quantize_activations


def silu_and_mul(x: Tensor, out: Tensor) -> None:
    gate, up = x.chunk(2, dim=1)
    out.copy_(torch.nn.functional.silu(gate) * up)


def silu_and_mul_a8(x: Tensor, codes: Tensor, scales: Tensor, sums: Tensor) -> None:
    out = torch.empty_like(x[:, : x.shape[1] // 2])
    silu_and_mul(x, out)
    quantize_activations(out, codes, scales, sums)
