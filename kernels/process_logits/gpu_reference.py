"""Biases and penalties in the dtype of the logits."""

from __future__ import annotations

import torch
from torch import Tensor


def gpu_process_logits(
    logits: Tensor,
    slots: Tensor,
    seen: Tensor,
    repetition_penalties: Tensor,
    frequency_penalties: Tensor,
    presence_penalties: Tensor,
    bias_ids: Tensor,
    biases: Tensor,
) -> None:
    there = bias_ids >= 0
    added = torch.where(there, biases, 0).to(logits.dtype)
    logits.scatter_add_(1, torch.where(there, bias_ids, 0).long(), added)

    rows = torch.where((slots >= 0)[:, None], seen[slots.clamp_min(0)], 0)
    repetition = repetition_penalties.to(logits.dtype)[:, None]
    scaled = torch.where(logits > 0, logits / repetition, logits * repetition)
    penalized = torch.where(rows > 0, scaled, logits)
    counts = (rows >> 1).to(logits.dtype)
    charge = frequency_penalties[:, None] * counts + presence_penalties[:, None]
    logits.copy_(torch.where(counts > 0, penalized - charge, penalized))


def gpu_count_tokens(token_ids: Tensor, slots: Tensor, seen: Tensor) -> None:
    there = slots >= 0
    seen[slots[there], token_ids[there]] += 2
