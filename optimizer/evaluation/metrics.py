"""How far a candidate's next-token distributions are from the baseline's. Numpy, on all cores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from artifacts.errors import UserError
from kernels.cpu.host import host

Logits = NDArray[np.float32]

_CHUNK_ELEMENTS = 1 << 17
"""Rows are scored a few at a time, in the same four arrays: what a core works on stays in its cache, and no page is fetched."""


class NoScore(UserError):
    """What a plan computes cannot be scored; another plan's may be."""


class NonFiniteLogitsError(NoScore):
    """Logits hold NaN or infinity: the model that gave them is broken."""


@dataclass(frozen=True)
class SequenceScore:
    """Sums over the `num_tokens` predicted tokens of one sequence. Units: nats."""

    num_tokens: int
    kl: float
    """KL(baseline || candidate)."""
    num_top1_agreements: int
    """Positions where both models' most likely token is the same."""
    negative_log_likelihood: float
    baseline_negative_log_likelihood: float
    is_own: bool = False
    """Whether the baseline itself drew the tokens, at temperature 1."""

    @property
    def log_likelihood_lost(self) -> float:
        """By the candidate: where the baseline drew the tokens, on average over all that it could have drawn at each.

        That is the KL, by its definition: in the mean the same as what is lost on those that were drawn, with far less noise.
        """
        return self.kl if self.is_own else self.negative_log_likelihood - self.baseline_negative_log_likelihood


def compare(token_ids: Sequence[int], baseline: Logits, candidate: Logits, *, is_own: bool = False) -> SequenceScore:
    """Score the predictions of token 1 and on, each given those before it; `is_own` as in the score.

    `baseline` and `candidate` are fp32 logits [>= len(token_ids) - 1, vocab]; row i predicts token i + 1.
    The KL of a row is sum p (z_p - z_q) - log sum exp z_p + log sum exp z_q over logits z shifted by their maximum:
    close logits cancel before they are weighed, so fp32 exponentials with fp64 sums are within 1e-8 nats of fp64.

    Raises NonFiniteLogitsError, UserError where the baseline's logits are not finite, and ValueError where shapes disagree or
    there is nothing to predict.
    """
    num_tokens = len(token_ids) - 1
    if num_tokens < 1:
        raise ValueError(f"a sequence must have at least 2 tokens to be scored, got {len(token_ids)}")
    for name, logits in (("baseline", baseline), ("candidate", candidate)):
        if logits.ndim != 2 or len(logits) < num_tokens or logits.shape[1] != baseline.shape[1]:
            raise ValueError(f"{name} logits must be [at least {num_tokens}, {baseline.shape[-1]}], got {list(logits.shape)}")
    targets = np.asarray(token_ids[1:])

    def scored(rows: slice) -> SequenceScore:
        return replace(_compare_rows(targets[rows], baseline[rows], candidate[rows]), is_own=is_own)

    num_parts = min(host().num_cores, -(-num_tokens * baseline.shape[1] // _CHUNK_ELEMENTS))
    bounds = [num_tokens * i // num_parts for i in range(num_parts + 1)]
    parts = [slice(begin, end) for begin, end in pairwise(bounds)]
    if num_parts == 1:
        return scored(parts[0])
    with ThreadPoolExecutor(num_parts) as pool:
        return replace(_total(pool.map(scored, parts)), is_own=is_own)


def _total(scores: Iterable[SequenceScore]) -> SequenceScore:
    every = list(scores)
    return SequenceScore(
        num_tokens=sum(score.num_tokens for score in every),
        kl=sum(score.kl for score in every),
        num_top1_agreements=sum(score.num_top1_agreements for score in every),
        negative_log_likelihood=sum(score.negative_log_likelihood for score in every),
        baseline_negative_log_likelihood=sum(score.baseline_negative_log_likelihood for score in every),
    )


def _compare_rows(targets: NDArray[np.int64], baseline: Logits, candidate: Logits) -> SequenceScore:
    vocab_size = baseline.shape[1]
    num_rows = max(1, min(len(targets), _CHUNK_ELEMENTS // vocab_size))
    scratch = np.empty((4, num_rows, vocab_size), np.float32)
    chunks = (slice(begin, begin + num_rows) for begin in range(0, len(targets), num_rows))
    return _total(_compare_chunk(targets[rows], baseline[rows], candidate[rows], scratch) for rows in chunks)


def _compare_chunk(
    targets: NDArray[np.int64], baseline: Logits, candidate: Logits, scratch: NDArray[np.float32]
) -> SequenceScore:
    p_logits, p_exp, q_logits, q_exp = scratch[:, : len(targets)]
    p_sum = _shift("baseline", baseline, p_logits, p_exp)
    q_sum = _shift("candidate", candidate, q_logits, q_exp)
    p_log_sum, q_log_sum = np.log(p_sum), np.log(q_sum)
    row = np.arange(len(targets))
    likely, baseline_likely = q_logits[row, targets] - q_log_sum, p_logits[row, targets] - p_log_sum
    weighed = np.multiply(np.subtract(p_logits, q_logits, out=q_logits), p_exp, out=q_logits)
    row_kl = weighed.sum(axis=1, dtype=np.float64) / p_sum - p_log_sum + q_log_sum
    return SequenceScore(
        num_tokens=len(targets),
        kl=float(np.maximum(row_kl, 0).sum()),
        num_top1_agreements=int((baseline.argmax(axis=1) == candidate.argmax(axis=1)).sum()),
        negative_log_likelihood=-float(likely.sum()),
        baseline_negative_log_likelihood=-float(baseline_likely.sum()),
    )


def _shift(name: str, logits: Logits, shifted: Logits, exponentials: Logits) -> NDArray[np.float64]:
    """Writes logits less their row maximum, and the exponentials of those; returns the rows' sums of exponentials."""
    highest = logits.max(axis=1, keepdims=True)
    if not np.isfinite(highest).all():
        fault = f"{name} logits must be finite, got NaN or infinity"
        raise UserError(fault) if name == "baseline" else NonFiniteLogitsError(fault)
    np.exp(np.subtract(logits, highest, out=shifted), out=exponentials)
    sums: NDArray[np.float64] = exponentials.sum(axis=1, dtype=np.float64)
    return sums
