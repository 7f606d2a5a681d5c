"""What layers of some families have beside attention and a feed-forward network, in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kernels.silu_and_mul.reference import clamped_silu
from runtime.network import Activation


def gated(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    """activation(gate) * up, fp32."""
    match activation.name:
        case "silu":
            return functional.silu(gate) * up
        case "gelu":
            return functional.gelu(gate, approximate="tanh") * up
        case "clamped_silu":
            return clamped_silu(gate, up, activation.limit, activation.slope)


@dataclass(frozen=True)
class FloatExtras:
    """The ops of `runtime.network.Extras` for one layer: inputs are of it alone."""

    tensors: Mapping[str, Tensor]

    def norm_without_gain(self, name: str, x: Tensor, eps: float) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], eps=eps)

    def rows(self, group: str) -> Tensor:
        return self.tensors[f"{group}.rows"]

    def shares(self, x: Tensor, width: int) -> Tensor:
        return x.view(len(x), -1, width)

    def share(self, x: Tensor, index: int) -> Tensor:
        return x[:, 0]

    def add(self, x: Tensor, more: Tensor, factor: float) -> Tensor:
        return torch.add(x, more, alpha=factor)

    def gated_by(self, name: str, gate: Tensor, x: Tensor, activation: Activation) -> Tensor:
        return gated(gate, x, activation)

    def times(self, stream: Tensor, factor: float) -> Tensor:
        return stream * factor

    def scale(self, name: str, stream: Tensor) -> Tensor:
        return stream * self.tensors[f"{name}.weight"]

    def settled(self, stream: Tensor) -> Tensor:
        return stream
