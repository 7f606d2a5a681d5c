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
    """The arrays of one step over `spans`, in order."""
    lengths = np.array([len(span.token_ids) for span in spans], np.int32)
    cu_seqlens_q = np.zeros(len(spans) + 1, np.int32)
    np.cumsum(lengths, out=cu_seqlens_q[1:])
    num_tokens = int(cu_seqlens_q[-1])
    token_ids = np.empty(num_tokens, np.int32)
    positions = np.empty(num_tokens, np.int32)
    slot_mapping = np.empty(num_tokens, np.int64)
    block_tables = np.zeros((len(spans), max(len(span.block_table) for span in spans)), np.int32)
    logit_rows: list[int] = []
    for row, span in enumerate(spans):
        begin, end = int(cu_seqlens_q[row]), int(cu_seqlens_q[row + 1])
        block_tables[row, : len(span.block_table)] = span.block_table
        token_ids[begin:end] = span.token_ids
        position = np.arange(span.start, span.start + end - begin)
        positions[begin:end] = position
        blocks = block_tables[row, position // block_size].astype(np.int64)
        slot_mapping[begin:end] = blocks * block_size + position % block_size
        logit_rows.extend(range(end - span.num_logits, end))
    starts = np.array([span.start for span in spans], np.int32)
    return Batch(
        token_ids=token_ids,
        positions=positions,
        slot_mapping=slot_mapping,
        block_tables=block_tables,
        seq_lens=starts + lengths,
        cu_seqlens_q=cu_seqlens_q,
        logit_rows=np.array(logit_rows, np.int32),
    )
