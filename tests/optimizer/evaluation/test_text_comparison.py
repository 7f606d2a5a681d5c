"""Sequences are added until every limit is met, one is missed, or the budget ends."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.evaluation import Gate, SequenceScore, TextComparison, compare_on_text, text_looks

LOOKS = text_looks(16, 64)


def scores(kl: float, *, agreement: float = 0.95, num: int = 64) -> list[SequenceScore]:
    """Sequences of 100 tokens that lose `kl` nats each token, by turns half as much and half as much again."""
    factors = np.tile([0.5, 1.5], num // 2)
    right = np.random.default_rng(0).binomial(100, agreement, num)
    return [SequenceScore(100, 100 * kl * float(f), int(r), 300.0, 300.0) for f, r in zip(factors, right, strict=True)]


def compared(of: list[SequenceScore], gate: Gate) -> tuple[TextComparison, list[tuple[int, int]]]:
    asked: list[tuple[int, int]] = []

    def scores_of(start: int, stop: int) -> list[SequenceScore]:
        asked.append((start, stop))
        return of[start:stop]

    return compare_on_text(LOOKS, scores_of, gate, seed=0), asked


def test_a_clear_pass_needs_one_look() -> None:
    found, asked = compared(scores(0.01), Gate(max_kl=0.05))
    assert asked == [(0, 16)] and found.verdict.passed and found.stopped == "every limit is met"
    assert found.evaluation.level == LOOKS[0].level and found.first.level == 0.95
    assert found.first.kl.value == found.evaluation.kl.value


def test_a_clear_miss_needs_one_look() -> None:
    found, asked = compared(scores(0.2), Gate(max_kl=0.05))
    assert asked == [(0, 16)] and found.verdict.outcome == "fail" and found.stopped == "a limit is missed"


def test_more_is_heard_where_little_decides_nothing() -> None:
    found, asked = compared(scores(0.01), Gate(max_kl=0.0122))
    assert asked == [(0, 16), (16, 32), (32, 64)] and found.verdict.passed
    record = found.record()
    assert record["num_sequences"] == record["max_sequences"] == 64 and record["stopped"] == "every limit is met"
    outcomes = [look["outcomes"]["kl"] for look in record["looks"]]  # type: ignore[index, attr-defined]
    assert outcomes == ["inconclusive", "inconclusive", "pass"]


def test_where_the_budget_ends_undecided_nothing_passes() -> None:
    found, asked = compared(scores(0.01), Gate(max_kl=0.0102))
    assert len(asked) == 3 and found.verdict.outcome == "inconclusive" and not found.verdict.passed
    assert found.stopped == "undecided after all of 64 sequences"
    assert "sequences would show it: raise evaluation.max_sequences" in found.verdict.shortfall()


def test_one_limit_that_is_open_keeps_all_waiting_and_one_that_is_missed_ends_it() -> None:
    sure_and_open = Gate(max_kl=0.05, min_top1_agreement=0.94)
    found, asked = compared(scores(0.01), sure_and_open)
    assert len(asked) > 1 and found.record()["looks"][0]["outcomes"] == {"kl": "pass", "top1_agreement": "inconclusive"}  # type: ignore[index]
    missed, asked = compared(scores(0.01, agreement=0.8), sure_and_open)
    assert asked == [(0, 16)] and missed.verdict.outcome == "fail"


def test_a_gate_without_limits_hears_no_more_than_it_must() -> None:
    assert compared(scores(0.3), Gate())[1] == [(0, 16)]


@pytest.mark.parametrize("part", [0.4, 1.0, 1.6])
def test_the_same_scores_give_the_same_bytes(part: float) -> None:
    one, other = (compared(scores(0.01), Gate(max_kl=0.01 * part))[0].record() for _ in range(2))
    assert one == other
