"""A step's work as the arrays that kernels read."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from artifacts.manifest import Limits

Arrays = TypeVar("Arrays")


@dataclass(frozen=True)
class BatchOf(Generic[Arrays]):
    """T tokens of S sequences, of which R have their logits computed; arrays of one kind, of numpy or of a device.

    token_ids, positions  i32 [T]
    slot_mapping          i64 [T]      where a token's key and value go: block * block_size + offset
    block_tables          i32 [S, B]   B is the longest table here; shorter ones are padded with 0
    seq_lens              i32 [S]      tokens in the cache once this step has run
    cu_seqlens_q          i32 [S + 1]  token range of each sequence
    logit_rows            i32 [R]      tokens whose logits are wanted, ascending
    """

    token_ids: Arrays
    positions: Arrays
    slot_mapping: Arrays
    block_tables: Arrays
    seq_lens: Arrays
    cu_seqlens_q: Arrays
    logit_rows: Arrays

    @classmethod
    def zeros(cls, limits: Limits, num_logits: int, make: Callable[[tuple[int, ...], str], Arrays]) -> BatchOf[Arrays]:
        """Room for a step within `limits` that wants so many rows of logits; `make(shape, dtype)` gives zeros."""
        tokens, seqs = limits.max_num_batched_tokens, limits.max_num_seqs
        return cls(
            token_ids=make((tokens,), "int32"),
            positions=make((tokens,), "int32"),
            slot_mapping=make((tokens,), "int64"),
            block_tables=make((seqs, -(-limits.max_model_len // limits.kv_block_size)), "int32"),
            seq_lens=make((seqs,), "int32"),
            cu_seqlens_q=make((seqs + 1,), "int32"),
            logit_rows=make((num_logits,), "int32"),
        )

    def put(self, batch: Batch) -> None:
        """Copy `batch` to the beginning of these arrays, which are numpy's; what lies behind it is left as it was."""
        for field in fields(self):
            source = getattr(batch, field.name)
            getattr(self, field.name)[tuple(map(slice, source.shape))] = source


Batch: TypeAlias = BatchOf[NDArray[Any]]


@dataclass(frozen=True)
class Span:
    """Tokens [start, start + len(token_ids)) of a sequence that lives in `block_table`; logits of its last, or of all."""

    token_ids: Items[int]
    start: int
    block_table: Items[int]
    num_logits: int


def build_batch(spans: Items[Span], block_size: int) -> Batch:
    """The arrays of one step over `spans`, in order.

    Lists first, and one conversion each: between two decode steps the weights have swept the caches, and every call into
    numpy is paid at memory speed.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    seq_lens: list[int] = []
    cu_seqlens_q = [0]
    logit_rows: list[int] = []
    block_tables = np.zeros((len(spans), max(len(span.block_table) for span in spans)), np.int32)
    for row, span in enumerate(spans):
        table, end = span.block_table, span.start + len(span.token_ids)
        block_tables[row, : len(table)] = table
        token_ids.extend(span.token_ids)
        positions.extend(range(span.start, end))
        slots.extend(table[at // block_size] * block_size + at % block_size for at in range(span.start, end))
        seq_lens.append(end)
        cu_seqlens_q.append(len(token_ids))
        logit_rows.extend(range(len(token_ids) - span.num_logits, len(token_ids)))
    return Batch(
        token_ids=np.array(token_ids, np.int32),
        positions=np.array(positions, np.int32),
        slot_mapping=np.array(slots, np.int64),
        block_tables=block_tables,
        seq_lens=np.array(seq_lens, np.int32),
        cu_seqlens_q=np.array(cu_seqlens_q, np.int32),
        logit_rows=np.array(logit_rows, np.int32),
    )
