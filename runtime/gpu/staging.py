"""From a batch of the scheduler to the static inputs of a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import torch

from runtime.batch import Batch
from runtime.gpu.program import GpuBatch, GpuProgram


def put(inputs: GpuBatch, batch: Batch) -> None:
    """Copies all of `batch` but its logit rows to the beginning of `inputs`; what lies behind is left as it was."""
    for field in fields(batch):
        if field.name != "logit_rows":
            source = torch.from_numpy(getattr(batch, field.name))
            getattr(inputs, field.name)[tuple(map(slice, source.shape))].copy_(source, non_blocking=True)


def padded(batch: Batch, num_tokens: int, num_seqs: int) -> Batch:
    """`batch` with tokens and sequences that write nothing and read nothing, up to these counts."""
    tokens, seqs = num_tokens - batch.token_ids.size, num_seqs - batch.seq_lens.size

    def more(array: np.ndarray, count: int, value: int = 0) -> np.ndarray:
        return np.concatenate([array, np.full((count, *array.shape[1:]), value, array.dtype)])

    return Batch(
        token_ids=more(batch.token_ids, tokens),
        positions=more(batch.positions, tokens),
        slot_mapping=more(batch.slot_mapping, tokens, -1),
        block_tables=more(batch.block_tables, seqs),
        seq_lens=more(batch.seq_lens, seqs),
        cu_seqlens_q=more(batch.cu_seqlens_q, seqs, int(batch.cu_seqlens_q[-1])),
        logit_rows=batch.logit_rows,
    )


def max_query_len(batch: Batch) -> int:
    """The most new tokens of a sequence."""
    return int(np.diff(batch.cu_seqlens_q).max(initial=0))


def step_counts(program: GpuProgram, batch: Batch, num_logits: int) -> dict[str, int]:
    return program.counts(batch.token_ids.size, batch.seq_lens.size, num_logits, max_query_len(batch))


def chunks(batch: Batch, size: int) -> Iterator[slice]:
    """The rows of logits of a batch, so many at a time."""
    return (slice(start, min(start + size, batch.logit_rows.size)) for start in range(0, batch.logit_rows.size, size))
