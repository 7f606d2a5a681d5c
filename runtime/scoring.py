"""Logits of every token of a given text: what evaluation reads, through the very steps that serve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.batch import Span, build_batch
from runtime.model_runner import ModelRunner


def score(runner: ModelRunner, token_ids: Sequence[int]) -> Iterator[NDArray[np.float32]]:
    """Logits after each of `token_ids`, chunk by chunk: fp32 [n, vocab_size], each valid until the next is asked for.

    Takes the first blocks of the runner's cache, so an engine must not hold it at the same time. ValueError if the text
    is longer than the runner's context.
    """
    if len(token_ids) > runner.max_model_len:
        raise ValueError(f"at most {runner.max_model_len} tokens can be scored here, got {len(token_ids)}")
    block_table = range(-(-len(token_ids) // runner.block_size))
    chunk = runner.max_num_batched_tokens
    for start in range(0, len(token_ids), chunk):
        tokens = token_ids[start : start + chunk]
        yield runner.run(build_batch([Span(tokens, start, block_table, len(tokens))], runner.block_size))
