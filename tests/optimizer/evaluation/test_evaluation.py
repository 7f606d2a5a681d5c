"""From token sequences to an evaluation, streaming, against the same numbers worked out at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from optimizer.evaluation import BaselineStore, Estimate, Evaluation, SequenceScore, evaluate
from optimizer.evaluation.confidence import ratio_of_sums
from optimizer.evaluation.metrics import Logits, compare

VOCAB = 60


def model(noise: float, seed: int = 0):  # type: ignore[no-untyped-def]
    """A bigram model: logits depend on the token alone."""
    rng = np.random.default_rng(seed)
    table = rng.normal(0, 2, (VOCAB, VOCAB)).astype(np.float32)
    table += np.random.default_rng(seed + 1).normal(0, noise, table.shape).astype(np.float32)

    def score(token_ids: list[int]) -> Logits:
        return table[token_ids]

    return score


@pytest.fixture
def sequences() -> list[list[int]]:
    rng = np.random.default_rng(7)
    return [rng.integers(0, VOCAB, length).tolist() for length in (20, 33, 8, 50, 41, 27)]


def test_evaluation(tmp_path: Path, sequences: list[list[int]]) -> None:
    baseline, candidate = model(0.0), model(0.3)
    store = BaselineStore.load_or_score(tmp_path, "bigram", sequences, baseline)
    result = evaluate(sequences, candidate, store, seed=1)

    scores = [compare(ids, baseline(ids), candidate(ids)) for ids in sequences]
    num_tokens = sum(len(ids) - 1 for ids in sequences)
    assert (result.num_sequences, result.num_tokens) == (6, num_tokens)
    assert result.kl.value == pytest.approx(sum(s.kl for s in scores) / num_tokens)
    cross_entropy = sum(s.negative_log_likelihood for s in scores) / num_tokens
    assert result.perplexity.value == pytest.approx(np.exp(cross_entropy))
    assert result.perplexity_increase.value == pytest.approx(result.perplexity.value / result.baseline_perplexity.value - 1)
    for estimate in (result.kl, result.top1_agreement, result.perplexity, result.perplexity_increase):
        assert estimate.low < estimate.value < estimate.high
    assert result.kl.low >= 0 and result.top1_agreement.high <= 1


def test_pairing_makes_the_increase_sharper(tmp_path: Path, sequences: list[list[int]]) -> None:
    store = BaselineStore.load_or_score(tmp_path, "bigram", sequences, model(0.0))
    result = evaluate(sequences, model(0.05), store, seed=1)
    paired = result.perplexity_increase.high - result.perplexity_increase.low
    assert paired < 0.2 * (result.perplexity.high - result.perplexity.low) / result.perplexity.value


def test_the_baseline_against_itself_is_perfect(tmp_path: Path, sequences: list[list[int]]) -> None:
    store = BaselineStore.load_or_score(tmp_path, "bigram", sequences, model(0.0))
    result = evaluate(sequences, model(0.0), store, seed=1)
    assert (result.kl.high, result.top1_agreement.low, result.perplexity_increase.high) == (0, 1, 0)


def test_kl_leaves_room_for_a_sequence_that_was_not_heard() -> None:
    """One that loses twice as much as the worst, which here loses 0.5 per token of a mean of 0.2."""
    scores = [SequenceScore(10, kl, 9, 30, 29.5) for kl in (1.0, 1.0, 1.0, 5.0)]
    found, heard = Evaluation.of(scores, seed=0).kl, ratio_of_sums([1, 1, 1, 5], [10] * 4, seed=0)
    assert (found.value, found.low) == (heard.value, max(heard.low, 0.0))
    assert found.high - heard.high == pytest.approx((2 * 0.5 - 0.2) / 4)
    many = Evaluation.of(scores * 25, seed=0).kl
    assert many.high - ratio_of_sums([1, 1, 1, 5] * 25, [10] * 100, seed=0).high == pytest.approx((2 * 0.5 - 0.2) / 100)


def test_on_text_of_its_own_the_increase_is_the_expected_one() -> None:
    """Drawn from the baseline: many sequences show the same mean either way, few show it better by expectation."""
    rng, baseline, candidate = np.random.default_rng(3), model(0.0), model(0.2)
    table = baseline(list(range(VOCAB))).astype(np.float64)
    cumulative = np.cumsum(np.exp(table) / np.exp(table).sum(axis=1, keepdims=True), axis=1)
    drawn = []
    for _ in range(300):
        ids = [0]
        while len(ids) < 40:
            ids.append(min(int(np.searchsorted(cumulative[ids[-1]], rng.random())), VOCAB - 1))
        drawn.append(ids)

    def increase(texts: list[list[int]], *, is_own: bool) -> Estimate:
        scores = (compare(ids, baseline(ids), candidate(ids), is_own=is_own) for ids in texts)
        return Evaluation.of(scores, seed=0).perplexity_increase

    expected, seen = increase(drawn, is_own=True), increase(drawn, is_own=False)
    assert seen.low < expected.value < seen.high
    assert expected.high - expected.low < (seen.high - seen.low) / 3
    few = increase(drawn[:16], is_own=True)
    assert few.low < seen.high and few.high > seen.low and few.value == pytest.approx(expected.value, rel=0.2)


def test_the_record_is_stable_json(tmp_path: Path) -> None:
    scores = [SequenceScore(10 + i, 0.1 / 3 * i, 9, 30 + i, 29.5 + i) for i in range(5)]
    record = Evaluation.of(scores, seed=0).record()
    assert json.loads(json.dumps(record)) == record
    nudged = [SequenceScore(s.num_tokens, s.kl * (1 + 1e-13), 9, *(30 + i, 29.5 + i)) for i, s in enumerate(scores)]
    assert json.dumps(Evaluation.of(nudged, seed=0).record()) == json.dumps(record)


def test_the_baseline_is_scored_once(tmp_path: Path, sequences: list[list[int]]) -> None:
    calls: list[int] = []

    def counted(token_ids: list[int]) -> Logits:
        calls.append(len(token_ids))
        return model(0.0)(token_ids)

    first = BaselineStore.load_or_score(tmp_path, "bigram", sequences, counted)
    again = BaselineStore.load_or_score(tmp_path, "bigram", sequences, counted)
    assert calls == [len(ids) for ids in sequences]
    for i, ids in enumerate(sequences):
        np.testing.assert_array_equal(again.logits(i), model(0.0)(ids)[:-1])
        np.testing.assert_array_equal(first.logits(i), again.logits(i))
    BaselineStore.load_or_score(tmp_path, "another", sequences, counted)
    BaselineStore.load_or_score(tmp_path, "bigram", sequences[:-1], counted)
    assert len(list(tmp_path.iterdir())) == 3


def test_an_interrupted_baseline_is_not_taken_for_a_whole_one(tmp_path: Path, sequences: list[list[int]]) -> None:
    def failing(token_ids: list[int]) -> Logits:
        if len(token_ids) == 50:
            raise KeyboardInterrupt
        return model(0.0)(token_ids)

    with pytest.raises(KeyboardInterrupt):
        BaselineStore.load_or_score(tmp_path, "bigram", sequences, failing)
    assert list(tmp_path.iterdir()) == []
    store = BaselineStore.load_or_score(tmp_path, "bigram", sequences, model(0.0))
    np.testing.assert_array_equal(store.logits(5), model(0.0)(sequences[5])[:-1])


def test_a_baseline_of_other_sequences_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", np.zeros((5, VOCAB), np.float32))
    with pytest.raises(ValueError, match="must hold 9 rows of logits, got 5"):
        BaselineStore(tmp_path / "b.npy", [[0] * 10])
