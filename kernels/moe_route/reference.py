"""Routing in fp32, or fp64 where the logits are: selection by stable sort, so that the lowest of equal experts comes first."""

from __future__ import annotations

import torch
from torch import Tensor


def _largest(values: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest of each row, in descending order."""
    return values.sort(dim=-1, descending=True, stable=True).indices[:, :count]


def _grouped(values: Tensor, num_groups: int) -> Tensor:
    return values.reshape(len(values), num_groups, values.shape[1] // num_groups)


def _select(
    scores: Tensor,
    choice: Tensor,
    group_scores: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    renormalize: int,
    topk_groups: int,
    routed_scale: float,
) -> None:
    """`group_scores` [T, groups]; only the experts of the best groups may be chosen."""
    allowed = torch.zeros_like(group_scores, dtype=torch.bool).scatter_(1, _largest(group_scores, topk_groups), True)
    allowed = allowed.repeat_interleave(choice.shape[1] // group_scores.shape[1], dim=1)
    ids = _largest(choice.masked_fill(~allowed, -torch.inf), topk_ids.shape[1])
    weights = scores.gather(1, ids)
    if renormalize:
        weights = weights / (weights.sum(dim=1, keepdim=True) + 1e-20)
    topk_ids.copy_(ids)
    topk_weights.copy_(weights * routed_scale)


def moe_route_softmax(
    logits: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    renormalize: int,
    num_groups: int,
    topk_groups: int,
    routed_scale: float,
) -> None:
    group_scores = _grouped(logits, num_groups).amax(dim=2)
    _select(logits.softmax(dim=1), logits, group_scores, topk_ids, topk_weights, renormalize, topk_groups, routed_scale)


def moe_route_softmax_scaled(
    logits: Tensor,
    expert_scales: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    renormalize: int,
    num_groups: int,
    topk_groups: int,
    routed_scale: float,
) -> None:
    moe_route_softmax(logits, topk_ids, topk_weights, renormalize, num_groups, topk_groups, routed_scale)
    topk_weights.mul_(expert_scales[topk_ids.long()])


def moe_route_sigmoid(
    logits: Tensor,
    bias: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    renormalize: int,
    num_groups: int,
    topk_groups: int,
    routed_scale: float,
) -> None:
    scores = logits.sigmoid()
    choice = scores + bias
    grouped = _grouped(choice, num_groups)
    group_scores = grouped.topk(min(2, grouped.shape[2]), dim=2).values.sum(dim=2)
    _select(scores, choice, group_scores, topk_ids, topk_weights, renormalize, topk_groups, routed_scale)


def moe_sort(topk_ids: Tensor, offsets: Tensor, tokens: Tensor, places: Tensor) -> None:
    pairs = topk_ids.flatten().long()
    order = pairs.argsort(stable=True)
    offsets[0] = 0
    offsets[1:] = torch.bincount(pairs, minlength=len(offsets) - 1).cumsum(0)
    tokens.copy_(order // topk_ids.shape[1])
    places.copy_(order.argsort().view(places.shape))


def moe_sort_ranked(topk_ids: Tensor, ranks: Tensor, offsets: Tensor, tokens: Tensor, places: Tensor) -> None:
    moe_sort(ranks[topk_ids.long()], offsets, tokens, places)
