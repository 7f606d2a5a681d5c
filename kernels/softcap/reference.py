"""Logits within a bound."""

from __future__ import annotations

from torch import Tensor


def softcap(x: Tensor, softcap: float) -> None:
    x.copy_(softcap * (x / softcap).tanh())
