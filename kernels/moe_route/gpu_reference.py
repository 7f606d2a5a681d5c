"""The router on a GPU chooses as on a CPU; what is its own are logits and the alignment."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.moe_route.reference import moe_route_sigmoid, moe_route_softmax, moe_route_softmax_scaled

gpu_moe_route_softmax, gpu_moe_route_sigmoid = moe_route_softmax, moe_route_sigmoid
gpu_moe_route_softmax_scaled = moe_route_softmax_scaled


def gpu_moe_logits(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    inner = torch.promote_types(x.dtype, torch.float32)
    logits = x.to(inner) @ weight.to(inner).T
    out.copy_(logits if bias is None else logits + bias)


def gpu_moe_align(topk_ids: Tensor, sorted_ids: Tensor, expert_ids: Tensor, num_padded: Tensor, num_experts: int) -> None:
    pairs, block_m = topk_ids.flatten().long(), sorted_ids.shape[1]
    counts = torch.bincount(pairs, minlength=num_experts)
    num_blocks = -(-counts // block_m)
    used = int(num_blocks.sum())
    expert_ids[:used] = torch.repeat_interleave(torch.arange(num_experts, device=pairs.device), num_blocks).to(torch.int32)
    num_padded.fill_(used * block_m)
    sorted_ids[:used] = len(pairs)
    order = pairs.argsort(stable=True)
    # A pair stands as far into its expert's blocks as it does among its expert's pairs.
    first_row, first_pair = (num_blocks.cumsum(0) - num_blocks) * block_m, counts.cumsum(0) - counts
    rows = (first_row - first_pair)[pairs[order]] + torch.arange(len(pairs), device=pairs.device)
    sorted_ids.view(-1)[rows] = order.to(torch.int32)
