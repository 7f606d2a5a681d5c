"""Runs steps on a GPU: torch for memory and graphs, frozen kernels for everything else.

Shapes are rounded up, so that a few prepared programs serve every step: decode steps to powers of two, and each of those is a
CUDA graph; steps with prompts to an eighth of a power of two. A decode step waits for the device once: to read its tokens.
Its logic is tested through Triton's interpreter; no GPU has run it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.gpu.points import bucket, buckets
from runtime.batch import Batch
from runtime.draws import Draws
from runtime.gpu.execution import Planner, Runnable, run_all
from runtime.gpu.program import GpuCall, GpuProgram
from runtime.gpu.staging import chunks, max_query_len, padded, put

#: prepared programs of steps with prompts that are kept
_KEPT_PROGRAMS = 64


def rounded_up(num_tokens: int) -> int:
    """At most an eighth more tokens, in steps of at least 16: few programs, little padding."""
    step = max(16, bucket(num_tokens) // 8)
    return -(-num_tokens // step) * step


class GpuRunner:
    """A `ModelRunner` that can also draw tokens on the device."""

    def __init__(self, program: GpuProgram, planner: Planner) -> None:
        limits, device = program.limits, program.logits.device
        self.program, self._planner = program, planner
        self.num_blocks, self.block_size = limits.num_kv_blocks, limits.kv_block_size
        self.vocab_size = program.logits.shape[1]
        self.max_num_seqs = limits.max_num_seqs
        self.max_num_batched_tokens = limits.max_num_batched_tokens
        self.max_model_len = limits.max_model_len
        self._draws = DrawBuffers(program.max_num_logits, device)
        draw = draw_call(program.logits, self._draws)
        self._parts = {
            "body": program.body,
            "head": program.head,
            "draw": (draw,),
            "decode": (*program.body, *program.head, draw),
        }
        self._prepared: OrderedDict[tuple[str, int, int, int, int], list[Runnable]] = OrderedDict()
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def run(self, batch: Batch) -> NDArray[np.float32]:
        self._body(batch)
        logits = np.empty((batch.logit_rows.size, self.vocab_size), np.float32)
        for rows in chunks(batch, self.program.max_num_logits):
            self._head(batch, rows)
            logits[rows] = self.program.logits[: rows.stop - rows.start].cpu().numpy()
        return logits

    def draw(self, batch: Batch, draws: Draws) -> NDArray[np.int32]:
        """Compute `batch` and draw a token for each of its rows of logits, at most max_num_seqs. Waits once, for the tokens."""
        num_rows = batch.logit_rows.size
        self._draws.put(draws)
        graph = self._graphs.get(self._rounded_seqs(batch)) if self._decodes(batch) else None
        if graph is not None:
            self._stage_decode(batch)
            graph.replay()
        else:
            self._body(batch)
            if num_rows:
                self._head(batch, slice(0, num_rows))
                run_all(self._steps("draw", 0, 0, min(bucket(num_rows), self.program.max_num_logits), 0), self._stream())
        drawn: NDArray[np.int32] = self._draws.token_ids[:num_rows].cpu().numpy()
        return drawn

    def capture(self, on_captured: Callable[[int], object] = lambda num_seqs: None) -> None:
        """Records a graph of a decode step for every bucket of sequences, largest first, so that they share memory."""
        sizes = sorted({min(size, self.max_num_seqs) for size in buckets(self.max_num_seqs)}, reverse=True)
        pool = None
        for size in sizes:
            steps = self._steps("decode", size, size, size, 1)
            run_all(steps, self._stream())  # loads what is loaded lazily, before anything is recorded
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                run_all(steps, self._stream())
            pool = graph.pool()
            self._graphs[size] = graph
            on_captured(size)

    def _decodes(self, batch: Batch) -> bool:
        """Whether every sequence has one new token whose logits are wanted."""
        count = batch.seq_lens.size
        return max_query_len(batch) == 1 and batch.token_ids.size == count == batch.logit_rows.size

    def _rounded_seqs(self, batch: Batch) -> int:
        return min(bucket(batch.seq_lens.size), self.max_num_seqs)

    def _stage_decode(self, batch: Batch) -> None:
        size = self._rounded_seqs(batch)
        put(self.program.inputs, padded(batch, size, size))
        # Padded rows take the first token's logits, and nobody reads what is drawn from them.
        self.program.inputs.logit_rows[:size].copy_(torch.arange(size, dtype=torch.int32), non_blocking=True)

    def _body(self, batch: Batch) -> None:
        num_seqs = num_tokens = self._rounded_seqs(batch)
        query_len = max_query_len(batch)
        if query_len > 1 or batch.token_ids.size != batch.seq_lens.size:
            num_tokens = min(rounded_up(batch.token_ids.size), self.max_num_batched_tokens)
            query_len = bucket(max(2, query_len))
        put(self.program.inputs, padded(batch, num_tokens, num_seqs))
        run_all(self._steps("body", num_tokens, num_seqs, 0, query_len), self._stream())

    def _head(self, batch: Batch, rows: slice) -> None:
        selected = torch.from_numpy(batch.logit_rows[rows])
        count = min(bucket(len(selected)), self.program.max_num_logits)
        self.program.inputs.logit_rows[: len(selected)].copy_(selected, non_blocking=True)
        # The rows behind are those of an earlier step: computed again, and not read.
        run_all(self._steps("head", self.max_num_batched_tokens, 0, count, 0), self._stream())

    def _steps(self, part: str, num_tokens: int, num_seqs: int, num_logits: int, query_len: int) -> list[Runnable]:
        """The launches of a part of the step at these counts, prepared once."""
        key = (part, num_tokens, num_seqs, num_logits, query_len)
        if key in self._prepared:
            self._prepared.move_to_end(key)
            return self._prepared[key]
        counts = self.program.counts(num_tokens, num_seqs, num_logits, query_len)
        steps = self._prepared[key] = self._planner.prepare(self._parts[part], counts)
        while len(self._prepared) > _KEPT_PROGRAMS:
            self._prepared.popitem(last=False)
        return steps

    def _stream(self) -> int:
        device = self.program.logits.device
        return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


class DrawBuffers:
    """Static buffers of what rows are drawn with."""

    def __init__(self, num_rows: int, device: torch.device) -> None:
        def zeros(dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(num_rows, dtype=dtype, device=device)

        self.temperatures, self.top_ps, self.min_ps = (zeros(torch.float32) for _ in range(3))
        self.top_ks, self.positions, self.token_ids = (zeros(torch.int32) for _ in range(3))
        self.seeds = zeros(torch.int64)

    def put(self, draws: Draws) -> None:
        for field in fields(draws):
            source = torch.from_numpy(getattr(draws, field.name))
            getattr(self, field.name)[: len(source)].copy_(source, non_blocking=True)


def draw_call(logits: torch.Tensor, buffers: DrawBuffers | None = None) -> GpuCall:
    """The call that draws a token from each row of `logits`."""
    made = buffers or DrawBuffers(logits.shape[0], logits.device)
    tensors = {field.name: getattr(made, field.name) for field in fields(Draws)}
    return GpuCall("gpu_sample", {**tensors, "logits": logits, "token_ids": made.token_ids}, {"R": "num_logits"}, "sample")
