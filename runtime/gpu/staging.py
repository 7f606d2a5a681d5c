"""From a batch of the scheduler to the static inputs of a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.batch import Arrays, Batch, BatchOf
from runtime.gpu.program import GpuProgram


class Upload:
    """Static tensors on a device, each with a twin in pinned host memory: copies between them do not make the host wait.

    Rows are copied whole, so that both sides are contiguous: anything else passes through memory that is not pinned.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        on_gpu = any(tensor.is_cuda for tensor in tensors.values())
        self._tensors = tensors
        self._twins = {name: torch.zeros_like(t, device="cpu", pin_memory=on_gpu) for name, t in tensors.items()}
        self._copied = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]

    def put(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Enqueues copies of `arrays` to the beginning of the tensors; what lies behind is left as it was."""
        if self._copied is not None:
            self._copied.synchronize()  # of the put before this one: long done where a step's results were waited for
        for name, array in arrays.items():
            twin, count = self._twins[name], len(array)
            twin.numpy()[tuple(map(slice, array.shape))] = array
            self._tensors[name][:count].copy_(twin[:count], non_blocking=True)
        if self._copied is not None:
            self._copied.record()


def inputs_of(batch: BatchOf[Arrays]) -> dict[str, Arrays]:
    """All of `batch` but its rows of logits, which a step may want a few at a time."""
    return {field.name: getattr(batch, field.name) for field in fields(batch) if field.name != "logit_rows"}


def padded(batch: Batch, num_tokens: int, num_seqs: int) -> Batch:
    """`batch` with tokens and sequences that write nothing and read nothing, up to these counts."""
    tokens, seqs = num_tokens - batch.token_ids.size, num_seqs - batch.seq_lens.size
    return Batch(
        token_ids=more(batch.token_ids, tokens),
        positions=more(batch.positions, tokens),
        slot_mapping=more(batch.slot_mapping, tokens, -1),
        block_tables=more(batch.block_tables, seqs),
        seq_lens=more(batch.seq_lens, seqs),
        cu_seqlens_q=more(batch.cu_seqlens_q, seqs, int(batch.cu_seqlens_q[-1])),
        logit_rows=batch.logit_rows,
    )


def more(array: np.ndarray, count: int, value: int = 0) -> np.ndarray:
    """`array` with `count` more rows of `value`."""
    return np.concatenate([array, np.full((count, *array.shape[1:]), value, array.dtype)])


def max_query_len(batch: Batch) -> int:
    """The most new tokens of a sequence."""
    return int(np.diff(batch.cu_seqlens_q).max(initial=0))


def step_counts(program: GpuProgram, batch: Batch, num_logits: int) -> dict[str, int]:
    return program.counts(batch.token_ids.size, batch.seq_lens.size, num_logits, max_query_len(batch))


def chunks(batch: Batch, size: int) -> Iterator[slice]:
    """The rows of logits of a batch, so many at a time."""
    return (slice(start, min(start + size, batch.logit_rows.size)) for start in range(0, batch.logit_rows.size, size))
