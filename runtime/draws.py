"""How the next tokens of a step are drawn, as arrays: what a runner that samples on its device needs."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.sequence import Sequence

_INT32_MAX = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Draws:
    """One draw for each row of logits; see `runtime.request.SamplingParams` for what each means.

    temperatures, top_ps, min_ps  f32 [R]
    top_ks, positions             i32 [R]   positions: tokens before the one that is drawn
    seeds                         i64 [R]
    """

    temperatures: NDArray[np.float32]
    top_ks: NDArray[np.int32]
    top_ps: NDArray[np.float32]
    min_ps: NDArray[np.float32]
    seeds: NDArray[np.int64]
    positions: NDArray[np.int32]


def is_plain(sequence: Sequence) -> bool:
    """Whether the next token needs neither the logits on the host nor what the sequence has said before."""
    params = sequence.request.params
    is_scored = params.logprobs is not None or params.prompt_logprobs
    return not is_scored and not any(processor.applies(sequence) for processor in sequence.processors)


def draws_of(sequences: Items[Sequence]) -> Draws:
    """The draws of `sequences`, a row for each."""
    params = [sequence.request.params for sequence in sequences]
    return Draws(
        temperatures=np.array([p.temperature for p in params], np.float32),
        top_ks=np.array([min(p.top_k, _INT32_MAX) for p in params], np.int32),  # more than any vocabulary has: off
        top_ps=np.array([p.top_p for p in params], np.float32),
        min_ps=np.array([p.min_p for p in params], np.float32),
        seeds=np.array([(p.seed or 0) % (1 << 63) for p in params], np.int64),
        positions=np.array([sequence.num_tokens for sequence in sequences], np.int32),
    )
