"""The weighted sum over a token's experts."""

from __future__ import annotations

from torch import Tensor


def moe_sum(x: Tensor, places: Tensor, topk_weights: Tensor, shared: Tensor | None, out: Tensor) -> None:
    total = (topk_weights[:, :, None] * x[places.long()]).sum(dim=1)
    out.copy_(total if shared is None else total + shared)
