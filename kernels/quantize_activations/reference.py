"""Symmetric int8 activations per token."""

from __future__ import annotations

import torch
from torch import Tensor

#: below it 127 / max |x| would overflow
SMALLEST = 1e-36


def quantize_activations(x: Tensor, codes: Tensor, scales: Tensor, sums: Tensor) -> None:
    largest = x.abs().amax(dim=1)
    largest = torch.where(largest >= SMALLEST, largest, 0.0)
    scales.copy_(largest / 127)
    inverse = torch.where(largest > 0, 127 / largest, 0.0)
    codes.copy_((x * inverse[:, None]).round())
    sums.copy_(codes.to(torch.int32).reshape(*sums.shape, 32).sum(dim=2).cumsum(dim=1))


def quantize_activations_a16(x: Tensor, codes: Tensor, scales: Tensor, sums: Tensor) -> None:
    largest = x.abs().amax(dim=1)
    largest = torch.where(largest >= SMALLEST, largest, 0.0)
    scales.copy_(largest / 127 / 256)
    inverse = torch.where(largest > 0, 127 / largest, 0.0) * 256
    whole = (x * inverse[:, None]).round().to(torch.int32)
    high = (whole + 128) >> 8
    codes.copy_(torch.stack([high, whole - 256 * high], dim=1).flatten(0, 1))
    sums.copy_(codes.to(torch.int32).reshape(*sums.shape, 32).sum(dim=2).cumsum(dim=1))
