"""Metrics against torch in fp64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.evaluation.metrics import Logits, NonFiniteLogitsError, compare


def logits(seed: int, num_tokens: int, vocab: int, noise: float) -> tuple[list[int], Logits, Logits]:
    rng = np.random.default_rng(seed)
    baseline = rng.normal(5, 3, (num_tokens, vocab)).astype(np.float32)
    candidate = (baseline + rng.normal(0, noise, baseline.shape)).astype(np.float32)
    return rng.integers(0, vocab, num_tokens).tolist(), baseline, candidate


@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.1, 3.0])
@pytest.mark.parametrize("chunk_elements", [1, 5000, 1 << 20])
def test_sums_agree_with_torch_in_fp64(noise: float, chunk_elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizer.evaluation.metrics._CHUNK_ELEMENTS", chunk_elements)
    ids, baseline, candidate = logits(1, 40, 999, noise)
    score = compare(ids, baseline, candidate)

    p, q = torch.from_numpy(baseline[:-1]).double(), torch.from_numpy(candidate[:-1]).double()
    targets = torch.tensor(ids[1:])
    kl = torch.nn.functional.kl_div(q.log_softmax(1), p.log_softmax(1), reduction="sum", log_target=True)
    assert score.num_tokens == 39
    assert score.kl == pytest.approx(kl.item(), rel=1e-5, abs=39e-8)
    assert score.negative_log_likelihood == pytest.approx(
        torch.nn.functional.cross_entropy(q, targets, reduction="sum").item(), rel=1e-6
    )
    assert score.baseline_negative_log_likelihood == pytest.approx(
        torch.nn.functional.cross_entropy(p, targets, reduction="sum").item(), rel=1e-6
    )
    assert score.num_top1_agreements == int((p.argmax(1) == q.argmax(1)).sum())


def test_the_last_row_predicts_nothing_and_may_be_absent() -> None:
    ids, baseline, candidate = logits(2, 10, 50, 0.5)
    assert compare(ids, baseline, candidate) == compare(ids, baseline[:-1], candidate[:-1])


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-1e3, 1e3), noise=st.floats(0, 2))
def test_a_constant_added_to_logits_changes_nothing(seed: int, shift: float, noise: float) -> None:
    ids, baseline, candidate = logits(seed, 6, 64, noise)
    score = compare(ids, baseline, candidate + np.float32(shift))
    reference = compare(ids, baseline, candidate)
    assert score.kl >= 0
    assert score.kl == pytest.approx(reference.kl, abs=5e-4 * max(1, noise))
    assert score.negative_log_likelihood == pytest.approx(reference.negative_log_likelihood, abs=1e-2)


def test_extreme_logits_stay_finite() -> None:
    baseline = np.float32([[1e4, -1e4, 0], [0, 0, 0]])
    score = compare([0, 0], baseline, baseline)
    assert (score.kl, score.baseline_negative_log_likelihood, score.num_top1_agreements) == (0, 0, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_logits_are_refused(bad: float) -> None:
    ids, baseline, candidate = logits(3, 5, 20, 0.1)
    candidate[2, 7] = bad
    with pytest.raises(NonFiniteLogitsError, match="candidate"):
        compare(ids, baseline, candidate)


def test_shapes_must_agree() -> None:
    ids, baseline, candidate = logits(4, 5, 20, 0.1)
    with pytest.raises(ValueError, match=r"candidate logits must be \[at least 4, 20\], got \[5, 19\]"):
        compare(ids, baseline, candidate[:, :19])
    with pytest.raises(ValueError, match="at least 2 tokens"):
        compare(ids[:1], baseline, candidate)
