"""The reference of the gated activations against transformers' own."""

from __future__ import annotations

import pytest
import torch
from transformers.activations import ACT2FN

from kernels import registry


@pytest.mark.parametrize(("symbol", "activation"), [("gpu_silu_and_mul", "silu"), ("gpu_gelu_and_mul", "gelu_pytorch_tanh")])
def test_activation_is_that_of_transformers(symbol: str, activation: str) -> None:
    x = torch.linspace(-40, 40, 320, dtype=torch.float64).view(4, 80)
    out = torch.zeros(4, 40, dtype=torch.float64)
    registry.reference(symbol)(x=x, out=out)
    torch.testing.assert_close(out, ACT2FN[activation](x[:, :40]) * x[:, 40:])
