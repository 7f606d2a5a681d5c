"""Logits of every token of a given text: what evaluation reads, through the very steps that serve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.batch import Batch, Span, build_batch
from runtime.model_runner import ModelRunner


def score(runner: ModelRunner, token_ids: Sequence[int]) -> NDArray[np.float32]:
    """Logits after each of `token_ids`: fp32 [n, vocab_size].

    Takes the first blocks of the runner's cache, so an engine must not hold it at the same time. ValueError if the text
    is longer than the runner's context.
    """
    if len(token_ids) > runner.limits.max_model_len:
        raise ValueError(f"at most {runner.limits.max_model_len} tokens can be scored here, got {len(token_ids)}")
    logits = np.empty((len(token_ids), runner.vocab_size), np.float32)
    block_table = range(-(-len(token_ids) // runner.limits.kv_block_size))
    chunk = runner.limits.max_num_batched_tokens
    for start in range(0, len(token_ids), chunk):
        tokens = token_ids[start : start + chunk]
        span = Span(tokens, start, block_table, num_logits=len(tokens))
        logits[start : start + len(tokens)] = runner.run(build_batch([span], runner.limits.kv_block_size))
    return logits


def score_together(
    runner: ModelRunner, texts: Sequence[Sequence[int]], num_logits: int | None = None
) -> list[NDArray[np.float32]]:
    """The logits of each of `texts`, or of its last `num_logits`, from one step over all: the runner must have room for it."""
    return split_together(runner.run(batch_together(texts, runner.limits.kv_block_size, num_logits)), texts, num_logits)


def batch_together(texts: Sequence[Sequence[int]], block_size: int, num_logits: int | None = None) -> Batch:
    """The step over all of `texts`, each on blocks of its own, that gives the logits of each one's last `num_logits` tokens.

    None stands for all.
    """
    spans, first_block = [], 0
    for tokens in texts:
        num_blocks = -(-len(tokens) // block_size)
        block_table = range(first_block, first_block + num_blocks)
        spans.append(Span(tokens, 0, block_table, num_logits=min(len(tokens), num_logits or len(tokens))))
        first_block += num_blocks
    return build_batch(spans, block_size)


def split_together(
    logits: NDArray[np.float32], texts: Sequence[Sequence[int]], num_logits: int | None = None
) -> list[NDArray[np.float32]]:
    """Each text's rows of what that step gives."""
    ends = np.cumsum([min(len(tokens), num_logits or len(tokens)) for tokens in texts])
    return np.split(logits[: ends[-1]], ends[:-1])
