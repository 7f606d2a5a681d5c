"""Gated activations: in fp32, or in fp64 where x is, rounded once."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.quantize_activations.gpu_reference import quantize_blocks, quantize_rows, quantize_with


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    gate, up = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=1)
    return gate, up


def _silu(x: Tensor) -> Tensor:
    gate, up = _halves(x)
    return torch.nn.functional.silu(gate) * up


def _gelu(x: Tensor) -> Tensor:
    gate, up = _halves(x)
    return torch.nn.functional.gelu(gate, approximate="tanh") * up


def gpu_silu_and_mul(x: Tensor, out: Tensor) -> None:
    out.copy_(_silu(x))


def gpu_silu_and_mul_int8(x: Tensor, codes: Tensor, scales: Tensor) -> None:
    quantize_rows(_silu(x), codes, scales)


def gpu_silu_and_mul_e4m3(x: Tensor, codes: Tensor, scales: Tensor) -> None:
    quantize_rows(_silu(x), codes, scales)


def gpu_silu_and_mul_e4m3_block(x: Tensor, codes: Tensor, scales: Tensor) -> None:
    quantize_blocks(_silu(x), codes, scales)


def gpu_silu_and_mul_e4m3_tensor(x: Tensor, codes: Tensor, scale: Tensor) -> None:
    quantize_with(_silu(x), codes, scale)


def gpu_gelu_and_mul(x: Tensor, out: Tensor) -> None:
    out.copy_(_gelu(x))


def gpu_gelu_and_mul_int8(x: Tensor, codes: Tensor, scales: Tensor) -> None:
    quantize_rows(_gelu(x), codes, scales)


def gpu_gelu_and_mul_e4m3(x: Tensor, codes: Tensor, scales: Tensor) -> None:
    quantize_rows(_gelu(x), codes, scales)


def gpu_gelu_and_mul_e4m3_block(x: Tensor, codes: Tensor, scales: Tensor) -> None:
    quantize_blocks(_gelu(x), codes, scales)


def gpu_gelu_and_mul_e4m3_tensor(x: Tensor, codes: Tensor, scale: Tensor) -> None:
    quantize_with(_gelu(x), codes, scale)
