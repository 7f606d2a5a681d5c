"""From a row of logits to the next token. numpy only; no full sort unless top-p has to look at the whole tail."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.logits.processor import Row
from runtime.request import Logprobs, SamplingParams
from runtime.sequence import Sequence


class NoToken(ArithmeticError):
    """No token can be chosen: the model's logits are not finite, or every token is ruled out."""


def sample(logits: Row, sequence: Sequence, eos_token_ids: frozenset[int]) -> tuple[int, Logprobs | None]:
    """The token after `sequence`, given fp32 logits [vocab_size], and its log-probability if asked for.

    The draw depends on the request's seed and the token's place alone, so preemption and batching cannot change it.
    Raises NoToken.
    """
    params = sequence.request.params
    processed = _processed(logits, sequence, eos_token_ids)
    likeliest = int(np.argmax(processed))
    if not np.isfinite(processed[likeliest]):  # NaN counts as the largest
        raise NoToken(f"the largest of the logits must be finite, got {processed[likeliest]}: no token can be chosen")
    if params.temperature == 0:
        token = likeliest
    else:
        uniform = _uniform(params.seed or 0, sequence.num_tokens)
        token = _draw(processed, params, uniform)
    return token, None if params.logprobs is None else logprobs_of(logits, token, params.logprobs)


def logprobs_of(logits: Row, token: int, num_top: int) -> Logprobs:
    """Log-probability of `token` under softmax(logits), with the `num_top` most likely tokens, most likely first."""
    wide = logits.astype(np.float64)
    num_top = min(num_top, wide.size)
    peak = float(wide.max())
    log_normalizer = peak + float(np.log(np.exp(wide - peak).sum()))
    top = np.argpartition(-wide, num_top - 1)[:num_top] if num_top else np.empty(0, np.intp)
    top = top[np.lexsort((top, -wide[top]))]
    return Logprobs(
        token_id=token,
        logprob=float(wide[token]) - log_normalizer,
        rank=int(np.count_nonzero(wide > wide[token])) + 1,
        top=tuple((int(t), float(wide[t]) - log_normalizer) for t in top),
    )


def _processed(logits: Row, sequence: Sequence, eos_token_ids: frozenset[int]) -> Row:
    """What the sequence's processors make of `logits`; the input is left alone."""
    applying = [processor for processor in sequence.processors if processor.applies(sequence)]
    if not applying:
        return logits
    processed = logits.copy()
    for processor in applying:
        processor(processed, sequence, eos_token_ids)
    return processed


def _uniform(seed: int, position: int) -> float:
    return float(np.random.Generator(np.random.Philox(key=seed & (2**64 - 1), counter=position)).random())


def _draw(logits: Row, params: SamplingParams, uniform: float) -> int:
    """Inverse-CDF draw from the truncated distribution; candidates in order of likelihood, ties by token id."""
    scaled = (logits - logits.max()).astype(np.float64) / params.temperature
    weights = np.exp(scaled)
    # The most likely token weighs exactly 1, so min_p is the least weight; 0 keeps them all.
    candidates = np.flatnonzero(weights >= params.min_p)
    if 0 < params.top_k < candidates.size:
        candidates = candidates[np.argpartition(-weights[candidates], params.top_k - 1)[: params.top_k]]
    if params.top_p < 1:
        candidates = _nucleus(weights, candidates, params.top_p)
    cumulative = np.cumsum(weights[candidates])
    chosen = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return int(candidates[min(chosen, candidates.size - 1)])


def _nucleus(weights: NDArray[np.float64], candidates: NDArray[np.intp], top_p: float) -> NDArray[np.intp]:
    """The smallest set of most likely candidates that holds `top_p` of their mass (Holtzman et al. 2020)."""
    needed = top_p * weights[candidates].sum()
    size = min(64, candidates.size)
    while True:
        # The head usually holds the mass: partition it off, and widen only when it does not.
        head = candidates
        if size < candidates.size:
            head = candidates[np.argpartition(-weights[candidates], size - 1)[:size]]
        head = head[np.lexsort((head, -weights[head]))]
        cumulative = np.cumsum(weights[head])
        if cumulative[-1] >= needed or size >= candidates.size:
            return head[: int(np.searchsorted(cumulative, needed)) + 1]
        size *= 8
