"""Runs steps on a GPU: torch for memory and graphs, frozen kernels for everything else.

Shapes are rounded up, so that a few prepared programs serve every step: decode steps to powers of two, and each of those is a
graph; steps with prompts to an eighth of a power of two. A decode step waits for the device once: to read its tokens.
Its logic is tested through Triton's interpreter; no GPU has run it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.gpu.points import bucket, buckets
from runtime.batch import Batch
from runtime.draws import Draws
from runtime.gpu.execution import Planner, Runnable, run_all
from runtime.gpu.graphs import CudaGraphs, Recorder
from runtime.gpu.program import GpuCall, GpuProgram
from runtime.gpu.staging import Upload, chunks, inputs_of, max_query_len, more, padded

#: prepared parts of steps that are kept
_KEPT_PARTS = 192


def rounded_up(num_tokens: int) -> int:
    """At most an eighth more tokens, in steps of at least 16: few programs, little padding."""
    step = max(16, bucket(num_tokens) // 8)
    return -(-num_tokens // step) * step


@dataclass(frozen=True)
class _Graph:
    """A recorded decode step, and the launches it was made from: it runs over the memory that those keep."""

    replay: Callable[[], None]
    steps: list[Runnable]


class GpuRunner:
    """A `ModelRunner` that can also draw tokens on the device."""

    def __init__(self, program: GpuProgram, planner: Planner) -> None:
        self.program, self._planner = program, planner
        self.limits = program.limits
        self.vocab_size = program.logits.shape[1]
        draws = DrawBuffers(program.max_num_logits, program.logits.device)
        self._token_ids = draws.token_ids
        self._inputs = Upload(inputs_of(program.inputs))
        self._rows = Upload({"logit_rows": program.inputs.logit_rows})
        self._draws = Upload({f.name: getattr(draws, f.name) for f in fields(Draws)})
        self._parts = {"body": program.body, "head": program.head, "draw": (draw_call(program.logits, draws),)}
        self._prepared: OrderedDict[tuple[str, int, int, int, int], list[Runnable]] = OrderedDict()
        self._graphs: dict[int, _Graph] = {}

    def run(self, batch: Batch) -> NDArray[np.float32]:
        self._launch(self._body(*self._stage(batch)))
        logits = np.empty((batch.logit_rows.size, self.vocab_size), np.float32)
        for rows in chunks(batch, self.program.max_num_logits):
            self._launch(self._head(self._stage_rows(batch.logit_rows[rows])))
            logits[rows] = self.program.logits[: rows.stop - rows.start].cpu().numpy()
        return logits

    def draw(self, batch: Batch, draws: Draws) -> NDArray[np.int32]:
        """Compute `batch` and draw a token for each of its rows of logits, at most max_num_seqs. Waits once, for the tokens."""
        num_rows = batch.logit_rows.size
        counts = self._stage(batch)
        if num_rows:
            count = self._stage_rows(batch.logit_rows)
            # Rows that pad are greedy: their temperature is 0.
            self._draws.put({f.name: more(getattr(draws, f.name), count - num_rows) for f in fields(draws)})
        graph = (
            self._graphs.get(self._rounded_seqs(batch)) if self._decodes(batch) and num_rows == batch.seq_lens.size else None
        )
        if graph is not None:
            graph.replay()
        else:
            self._launch(self._body(*counts))
            if num_rows:
                self._launch(self._head(count) + self._draw(count))
        drawn: NDArray[np.int32] = self._token_ids[:num_rows].cpu().numpy()
        return drawn

    def capture(self, on_captured: Callable[[int], object] = lambda num_seqs: None, recorder: Recorder | None = None) -> None:
        """Records a graph of a decode step for every bucket of sequences, largest first, so that they share memory."""
        graphs, most = recorder or CudaGraphs(), self.limits.max_num_seqs
        for size in sorted({min(size, most) for size in buckets(most)}, reverse=True):
            count = self._rounded_rows(size)
            steps = self._body(size, size, 1) + self._head(count) + self._draw(count)
            self._graphs[size] = _Graph(graphs.record(partial(self._launch, steps)), steps)
            on_captured(size)

    def _stage(self, batch: Batch) -> tuple[int, int, int]:
        """Puts all but rows of logits where a step reads it; tokens, sequences and query length that it is rounded up to."""
        num_seqs = num_tokens = self._rounded_seqs(batch)
        query_len = 1
        if not self._decodes(batch):
            # How long a query is at most decides no launch beyond whether it is one token.
            query_len = num_tokens = min(rounded_up(batch.token_ids.size), self.limits.max_num_batched_tokens)
        self._inputs.put(inputs_of(padded(batch, num_tokens, num_seqs)))
        return num_tokens, num_seqs, query_len

    def _stage_rows(self, logit_rows: NDArray[np.int32]) -> int:
        """Puts rows of logits where the head reads them; how many it computes: rows that pad are the first token's."""
        count = self._rounded_rows(len(logit_rows))
        self._rows.put({"logit_rows": more(logit_rows, count - len(logit_rows))})
        return count

    def _decodes(self, batch: Batch) -> bool:
        """Whether every sequence has one new token."""
        return max_query_len(batch) == 1 and batch.token_ids.size == batch.seq_lens.size

    def _rounded_seqs(self, batch: Batch) -> int:
        return min(bucket(batch.seq_lens.size), self.limits.max_num_seqs)

    def _rounded_rows(self, count: int) -> int:
        return min(bucket(count), self.program.max_num_logits)

    def _body(self, num_tokens: int, num_seqs: int, query_len: int) -> list[Runnable]:
        return self._steps("body", num_tokens, num_seqs, 0, query_len)

    def _head(self, num_logits: int) -> list[Runnable]:
        return self._steps("head", self.limits.max_num_batched_tokens, 0, num_logits, 0)

    def _draw(self, num_logits: int) -> list[Runnable]:
        return self._steps("draw", 0, 0, num_logits, 0)

    def _steps(self, part: str, num_tokens: int, num_seqs: int, num_logits: int, query_len: int) -> list[Runnable]:
        """The launches of a part of the step at these counts, prepared once."""
        key = (part, num_tokens, num_seqs, num_logits, query_len)
        if key in self._prepared:
            self._prepared.move_to_end(key)
            return self._prepared[key]
        counts = self.program.counts(num_tokens, num_seqs, num_logits, query_len)
        steps = self._prepared[key] = self._planner.prepare(self._parts[part], counts)
        while len(self._prepared) > _KEPT_PARTS:
            self._prepared.popitem(last=False)
        return steps

    def _launch(self, steps: list[Runnable]) -> None:
        run_all(steps, self._stream())

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


def draw_call(logits: torch.Tensor, buffers: DrawBuffers | None = None) -> GpuCall:
    """The call that draws a token from each row of `logits`."""
    made = buffers or DrawBuffers(logits.shape[0], logits.device)
    tensors = {field.name: getattr(made, field.name) for field in fields(Draws)}
    return GpuCall("gpu_sample", {**tensors, "logits": logits, "token_ids": made.token_ids}, {"R": "num_logits"}, "sample")
