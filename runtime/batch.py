"""A step's work as the arrays that kernels read."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """T tokens of S sequences, of which R have their logits computed.

    token_ids, positions  i32 [T]
    slot_mapping          i64 [T]      where a token's key and value go: block * block_size + offset
    block_tables          i32 [S, B]   B is the longest table here; shorter ones are padded with 0
    seq_lens              i32 [S]      tokens in the cache once this step has run
    cu_seqlens_q          i32 [S + 1]  token range of each sequence
    logit_rows            i32 [R]      tokens whose logits are wanted, ascending
    """

    token_ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    slot_mapping: NDArray[np.int64]
    block_tables: NDArray[np.int32]
    seq_lens: NDArray[np.int32]
    cu_seqlens_q: NDArray[np.int32]
    logit_rows: NDArray[np.int32]

    @classmethod
    def zeros(cls, num_tokens: int, num_seqs: int, num_blocks: int) -> Batch:
        """Room for batches of up to so many tokens, sequences, and blocks in a table."""
        return cls(
            token_ids=np.zeros(num_tokens, np.int32),
            positions=np.zeros(num_tokens, np.int32),
            slot_mapping=np.zeros(num_tokens, np.int64),
            block_tables=np.zeros((num_seqs, num_blocks), np.int32),
            seq_lens=np.zeros(num_seqs, np.int32),
            cu_seqlens_q=np.zeros(num_seqs + 1, np.int32),
            logit_rows=np.zeros(num_tokens, np.int32),
        )

    def put(self, batch: Batch) -> None:
        """Copy `batch` to the beginning of these arrays; what lies behind it is left as it was."""
        for field in fields(self):
            source = getattr(batch, field.name)
            getattr(self, field.name)[tuple(map(slice, source.shape))] = source


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
