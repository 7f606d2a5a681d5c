"""The references of the gated activations against transformers' own."""

from __future__ import annotations

import pytest
import torch
from transformers import GptOssConfig
from transformers.activations import ACT2FN
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from kernels import registry


@pytest.mark.parametrize(("symbol", "activation"), [("gpu_silu_and_mul", "silu"), ("gpu_gelu_and_mul", "gelu_pytorch_tanh")])
def test_activation_is_that_of_transformers(symbol: str, activation: str) -> None:
    x = torch.linspace(-40, 40, 320, dtype=torch.float64).view(4, 80)
    out = torch.zeros(4, 40, dtype=torch.float64)
    registry.reference(symbol)(x=x, out=out)
    torch.testing.assert_close(out, ACT2FN[activation](x[:, :40]) * x[:, 40:])


def test_the_clamped_activation_is_gpt_oss() -> None:
    x = torch.linspace(-40, 40, 320, dtype=torch.float64).view(4, 80)[:, torch.randperm(80)]
    out = torch.zeros(4, 40, dtype=torch.float64)
    registry.reference("gpu_clamped_silu_and_mul")(x=x, out=out, limit=7.0, slope=1.702)
    experts = GptOssExperts(GptOssConfig(hidden_size=8, intermediate_size=8, num_local_experts=1))
    by_turns = x.view(4, 2, 40).transpose(1, 2).flatten(1)
    torch.testing.assert_close(out, experts._apply_gate(by_turns))
