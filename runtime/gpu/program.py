"""A model's step for a GPU: a flat list of calls over torch buffers that are allocated once, cut to a step's counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

from artifacts.manifest import Limits
from kernels import registry
from kernels.spec import Call
from runtime.batch import BatchOf

GpuBatch: TypeAlias = BatchOf[torch.Tensor]
#: num_tokens, num_seqs, num_logits and max_query_len of a step
Counts: TypeAlias = Mapping[str, int]
#: a tensor at its largest, one that is made from the counts (a view of a buffer), a number, or None where it is left out
GpuArgument: TypeAlias = torch.Tensor | Callable[[Counts], torch.Tensor] | float | int | None


GpuCall: TypeAlias = Call[GpuArgument]


def bound(call: GpuCall, counts: Counts) -> dict[str, torch.Tensor | float | int | None]:
    """The arguments of a call as they are in a step of `counts`."""
    sizes = {axis: counts[counter] for axis, counter in call.counters.items()}
    made = {name: value(counts) if callable(value) else value for name, value in call.arguments.items()}
    return registry.spec(call.symbol).cut(made, sizes)


@dataclass(frozen=True)
class GpuProgram:
    """A step: `body` up to the last hidden states, and `head` from those rows of them that logits are wanted of.

    `logits` is fp32 [max_num_logits, vocab_size]: a step that wants more rows runs the head more than once.
    """

    body: tuple[GpuCall, ...]
    head: tuple[GpuCall, ...]
    inputs: GpuBatch
    logits: torch.Tensor
    limits: Limits
    pairs_per_token: int

    @property
    def max_num_logits(self) -> int:
        return self.logits.shape[0]

    def counts(self, num_tokens: int, num_seqs: int, num_logits: int, max_query_len: int) -> dict[str, int]:
        """What the variable axes of a step's calls follow."""
        return {
            "num_tokens": num_tokens,
            "num_seqs": num_seqs,
            "num_logits": num_logits,
            "max_query_len": max_query_len,
            "num_pairs": num_tokens * self.pairs_per_token,
        }
