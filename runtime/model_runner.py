"""One interface between what the engine decides and what computes it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from artifacts.manifest import Limits
from runtime.batch import Batch
from runtime.decoder import StepProgram
from runtime.draws import Draws


class ModelRunner(Protocol):
    """Runs steps of one model over one KV cache."""

    limits: Limits
    vocab_size: int

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Compute `batch`, write its keys and values, and return logits [R, vocab_size], valid until the next call."""
        ...


@runtime_checkable
class DrawingRunner(ModelRunner, Protocol):
    """A runner that can draw tokens where it computes logits, so that no logits have to leave the device."""

    def draw(self, batch: Batch, draws: Draws) -> NDArray[np.int32]:
        """Compute `batch` and return a token [R] for each row of logits, drawn as `draws` says."""
        ...


class Executable(Protocol):
    """A step program ready to run: compiled by the bundle's library, or walked through the references."""

    def run(self) -> None: ...

    def profile_ms(self) -> NDArray[np.float64]:
        """Run once and return the milliseconds that each call took."""
        ...


class ProgramRunner:
    """A `ModelRunner` over a step program: fill the input buffers, set the counters, run."""

    def __init__(self, step: StepProgram, executable: Executable) -> None:
        self.step = step
        self.executable = executable
        self.limits = step.limits
        self.vocab_size = step.logits.shape[1]

    def run(self, batch: Batch) -> NDArray[np.float32]:
        self.fill(batch)
        self.executable.run()
        return self.step.logits[: batch.logit_rows.size]

    def fill(self, batch: Batch) -> None:
        """Put `batch` where the next run of the program reads it."""
        self.step.fill(batch)
