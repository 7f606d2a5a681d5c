"""A model's step for a GPU: a flat list of calls over torch buffers that are allocated once, cut to a step's counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

from artifacts.manifest import Serving
from kernels import registry
from kernels.spec import OpSpec, axis_extent, axis_name

#: num_tokens, num_seqs, num_logits and max_query_len of a step
Counts: TypeAlias = Mapping[str, int]
#: a tensor at its largest, one that is made from the counts (a view of a buffer), a number, or None where it is left out
GpuArgument: TypeAlias = torch.Tensor | Callable[[Counts], torch.Tensor] | float | int | None


@dataclass(frozen=True)
class GpuCall:
    """One op of a step. `counters` names the count of each variable axis, and of each scalar that a step changes.

    `label` is the part of the model that it computes, such as `layers.3.qkv`.
    """

    symbol: str
    arguments: Mapping[str, GpuArgument]
    counters: Mapping[str, str]
    label: str

    @property
    def spec(self) -> OpSpec:
        return registry.spec(self.symbol)

    def bound(self, counts: Counts) -> dict[str, torch.Tensor | float | int | None]:
        """The arguments as they are in a step of `counts`: variable axes cut, scalars filled in."""
        spec = self.spec
        sizes = {axis: counts[counter] for axis, counter in self.counters.items()}
        arguments: dict[str, torch.Tensor | float | int | None] = {}
        for tensor in spec.tensors:
            value = self.arguments.get(tensor.name)
            if callable(value):
                value = value(counts)
            first = tensor.axes[0]
            if isinstance(value, torch.Tensor) and axis_name(first) in sizes:
                value = value[: axis_extent(first, sizes)]
            arguments[tensor.name] = value
        for scalar in spec.scalars:
            given = sizes[scalar.name] if scalar.name in sizes else self.arguments[scalar.name]
            assert isinstance(given, float | int)
            arguments[scalar.name] = given
        return arguments


@dataclass(frozen=True)
class GpuBatch:
    """The inputs of a step on the device, at their largest; see runtime/batch.py for what each holds."""

    token_ids: torch.Tensor
    positions: torch.Tensor
    slot_mapping: torch.Tensor
    block_tables: torch.Tensor
    seq_lens: torch.Tensor
    cu_seqlens_q: torch.Tensor
    logit_rows: torch.Tensor

    @classmethod
    def zeros(cls, limits: Serving, num_logits: int, device: torch.device) -> GpuBatch:
        """Room for a step within `limits` and for `num_logits` rows of logits at a time."""
        tokens, seqs = limits.max_num_batched_tokens, limits.max_num_seqs

        def ints(*extents: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
            return torch.zeros(extents, dtype=dtype, device=device)

        return cls(
            token_ids=ints(tokens),
            positions=ints(tokens),
            slot_mapping=ints(tokens, dtype=torch.int64),
            block_tables=ints(seqs, -(-limits.max_model_len // limits.kv_block_size)),
            seq_lens=ints(seqs),
            cu_seqlens_q=ints(seqs + 1),
            logit_rows=ints(num_logits),
        )


@dataclass(frozen=True)
class GpuProgram:
    """A step: `body` up to the last hidden states, and `head` from those rows of them that logits are wanted of.

    `logits` is fp32 [max_num_logits, vocab_size]: a step that wants more rows runs the head more than once.
    """

    body: tuple[GpuCall, ...]
    head: tuple[GpuCall, ...]
    inputs: GpuBatch
    logits: torch.Tensor
    limits: Serving
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
