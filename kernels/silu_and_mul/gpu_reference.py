"""Gated activations: in fp32, or in fp64 where x is, rounded once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.quantize_activations.gpu_reference import in_every_form
from kernels.quantize_activations.output import PLAIN
from kernels.silu_and_mul.reference import clamped_silu


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    gate, up = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=1)
    return gate, up


def _gated(activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    gate, up = _halves(x)
    return activation(gate) * up


def _silu_and_mul(x: Tensor) -> Tensor:
    return _gated(torch.nn.functional.silu, x)


def _gelu_and_mul(x: Tensor) -> Tensor:
    return _gated(lambda gate: torch.nn.functional.gelu(gate, approximate="tanh"), x)


def _clamped_silu_and_mul(x: Tensor, limit: float, slope: float) -> Tensor:
    return clamped_silu(*_halves(x), limit, slope)


def _silu_gate(gate: Tensor, x: Tensor) -> Tensor:
    return _silu_and_mul(torch.cat([gate, x], dim=1))


def _gelu_gate(gate: Tensor, x: Tensor) -> Tensor:
    return _gelu_and_mul(torch.cat([gate, x], dim=1))


def _clamped_silu_gate(gate: Tensor, x: Tensor, limit: float, slope: float) -> Tensor:
    return _clamped_silu_and_mul(torch.cat([gate, x], dim=1), limit, slope)


REFERENCES = {
    **in_every_form("gpu_silu_and_mul", _silu_and_mul),
    **in_every_form("gpu_gelu_and_mul", _gelu_and_mul),
    **in_every_form("gpu_clamped_silu_and_mul", _clamped_silu_and_mul),
    **in_every_form("gpu_silu_gate", _silu_gate, [PLAIN]),
    **in_every_form("gpu_gelu_gate", _gelu_gate, [PLAIN]),
    **in_every_form("gpu_clamped_silu_gate", _clamped_silu_gate, [PLAIN]),
}
