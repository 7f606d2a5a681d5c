"""How far a candidate's next-token distributions are from the baseline's. Numpy, on all cores."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.host import host

Logits = NDArray[np.float32]

_CHUNK_ELEMENTS = 1 << 20
"""Rows are scored a few at a time: temporaries stay near 20 MB a core, whatever the vocabulary and the sequence length."""


class NonFiniteLogitsError(ValueError):
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


def compare(token_ids: Sequence[int], baseline: Logits, candidate: Logits) -> SequenceScore:
    """Score the predictions of token 1 and on, each given those before it.

    `baseline` and `candidate` are fp32 logits [>= len(token_ids) - 1, vocab]; row i predicts token i + 1.
    The KL of a row is sum p (z_p - z_q) - log sum exp z_p + log sum exp z_q over logits z shifted by their maximum:
    close logits cancel before they are weighed, so fp32 exponentials with fp64 sums are within 1e-8 nats of fp64.

    Raises NonFiniteLogitsError, and ValueError where shapes disagree or there is nothing to predict.
    """
    num_tokens = len(token_ids) - 1
    if num_tokens < 1:
        raise ValueError(f"a sequence must have at least 2 tokens to be scored, got {len(token_ids)}")
    for name, logits in (("baseline", baseline), ("candidate", candidate)):
        if logits.ndim != 2 or len(logits) < num_tokens or logits.shape[1] != baseline.shape[1]:
            raise ValueError(f"{name} logits must be [at least {num_tokens}, {baseline.shape[-1]}], got {list(logits.shape)}")
    targets = np.asarray(token_ids[1:])

    def scored(rows: slice) -> SequenceScore:
        return _compare_rows(targets[rows], baseline[rows], candidate[rows])

    rows_per_chunk = max(1, _CHUNK_ELEMENTS // baseline.shape[1])
    chunks = [slice(start, min(start + rows_per_chunk, num_tokens)) for start in range(0, num_tokens, rows_per_chunk)]
    if len(chunks) == 1:
        return scored(chunks[0])
    with ThreadPoolExecutor(host().num_cores) as pool:
        parts = [astuple(part) for part in pool.map(scored, chunks)]
    return SequenceScore(*map(sum, zip(*parts, strict=True)))


def _compare_rows(targets: NDArray[np.int64], baseline: Logits, candidate: Logits) -> SequenceScore:
    p_logits, p_exp, p_sum = _shifted("baseline", baseline)
    q_logits, _, q_sum = _shifted("candidate", candidate)
    q_log_sum, p_log_sum = np.log(q_sum), np.log(p_sum)
    row_kl = (p_exp * (p_logits - q_logits)).sum(axis=1, dtype=np.float64) / p_sum - p_log_sum + q_log_sum
    row = np.arange(len(targets))
    return SequenceScore(
        num_tokens=len(targets),
        kl=float(np.maximum(row_kl, 0).sum()),
        num_top1_agreements=int((p_logits.argmax(axis=1) == q_logits.argmax(axis=1)).sum()),
        negative_log_likelihood=-float((q_logits[row, targets] - q_log_sum).sum()),
        baseline_negative_log_likelihood=-float((p_logits[row, targets] - p_log_sum).sum()),
    )


def _shifted(name: str, logits: Logits) -> tuple[Logits, Logits, NDArray[np.float64]]:
    """Logits less their row maximum, the exponentials of those, and the rows' sums of exponentials."""
    highest = logits.max(axis=1, keepdims=True)
    if not np.isfinite(highest).all():
        raise NonFiniteLogitsError(f"{name} logits must be finite, got NaN or infinity")
    shifted = logits - highest
    exponentials = np.exp(shifted)
    return shifted, exponentials, exponentials.sum(axis=1, dtype=np.float64)
