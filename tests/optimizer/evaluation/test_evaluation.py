"""From token sequences to an evaluation, streaming, against the same numbers worked out at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from optimizer.evaluation import BaselineStore, Evaluation, SequenceScore, evaluate
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


def test_the_record_is_stable_json(tmp_path: Path) -> None:
    scores = [SequenceScore(10 + i, 0.1 / 3 * i, 9, 30 + i, 29.5 + i) for i in range(5)]
    record = Evaluation.of(scores, seed=0).record()
    assert json.loads(json.dumps(record)) == record
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
