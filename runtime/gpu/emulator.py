"""A step through the ops' references on the host: the numerics of the GPU's kernels, exactly up to the order of sums."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray

from kernels import registry
from runtime.batch import Batch
from runtime.gpu.program import GpuProgram, bound
from runtime.gpu.staging import Upload, chunks, inputs_of, step_counts


class Emulator:
    """A `ModelRunner` for machines without the GPU: every call through its reference, rounding where the kernel rounds."""

    def __init__(self, program: GpuProgram) -> None:
        self.program = program
        self.limits = program.limits
        self.vocab_size = program.logits.shape[1]
        self._inputs = Upload({f.name: getattr(program.inputs, f.name) for f in fields(program.inputs)})

    def run(self, batch: Batch) -> NDArray[np.float32]:
        self._inputs.put(inputs_of(batch))
        logits = np.empty((batch.logit_rows.size, self.vocab_size), np.float32)
        with torch.inference_mode():
            self._run(batch, None)
            for rows in chunks(batch, self.program.max_num_logits):
                self._run(batch, rows)
                logits[rows] = self.program.logits[: rows.stop - rows.start].numpy()
        return logits

    def _run(self, batch: Batch, rows: slice | None) -> None:
        """The body, or the head for some rows of logits."""
        program = self.program
        if rows is not None:
            self._inputs.put({"logit_rows": batch.logit_rows[rows]})
        counts = step_counts(program, batch, 0 if rows is None else rows.stop - rows.start)
        for call in program.body if rows is None else program.head:
            registry.reference(call.symbol)(**bound(call, counts))
