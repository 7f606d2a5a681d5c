"""Gated activations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.quantize_activations.reference import quantize_activations


def _gelu(gate: Tensor) -> Tensor:
    return torch.nn.functional.gelu(gate, approximate="tanh")


def _gated(activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=1)
    return activation(gate) * up


def clamped_silu(gate: Tensor, up: Tensor, limit: float, slope: float) -> Tensor:
    """gate' sigmoid(slope gate') (1 + up'), with a gate of at most `limit`, and an up whose magnitude is."""
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return gate * torch.sigmoid(slope * gate) * (1 + up)


def silu_and_mul(x: Tensor, out: Tensor) -> None:
    out.copy_(_gated(torch.nn.functional.silu, x))


def gelu_and_mul(x: Tensor, out: Tensor) -> None:
    out.copy_(_gated(_gelu, x))


def silu_gate(gate: Tensor, x: Tensor, out: Tensor) -> None:
    out.copy_(torch.nn.functional.silu(gate) * x)


def gelu_gate(gate: Tensor, x: Tensor, out: Tensor) -> None:
    out.copy_(_gelu(gate) * x)


def clamped_silu_gate(gate: Tensor, x: Tensor, out: Tensor, limit: float, slope: float) -> None:
    out.copy_(clamped_silu(gate, x, limit, slope))


def silu_and_mul_a8(x: Tensor, codes: Tensor, scales: Tensor, sums: Tensor) -> None:
    quantize_activations(_gated(torch.nn.functional.silu, x), codes, scales, sums)


def gelu_and_mul_a8(x: Tensor, codes: Tensor, scales: Tensor, sums: Tensor) -> None:
    quantize_activations(_gated(_gelu, x), codes, scales, sums)


def clamped_silu_and_mul(x: Tensor, out: Tensor, limit: float, slope: float) -> None:
    gate, up = x.chunk(2, dim=1)
    out.copy_(clamped_silu(gate, up, limit, slope))


def clamped_silu_and_mul_a8(x: Tensor, codes: Tensor, scales: Tensor, sums: Tensor, limit: float, slope: float) -> None:
    gate, up = x.chunk(2, dim=1)
    quantize_activations(clamped_silu(gate, up, limit, slope), codes, scales, sums)
