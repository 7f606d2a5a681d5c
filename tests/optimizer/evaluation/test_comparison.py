"""From item results to a verdict, on subjects that answer by rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from optimizer.evaluation import Comparison, Fidelity, ItemSet, NonInferiority, Paired, Verdict, compare_all, compare_on
from optimizer.evaluation.sets.item_set import Marked
from optimizer.evaluation.sets.multiple_choice import MultipleChoice


class Scripted:
    """Right on item i with a probability of its own draw."""

    def __init__(self, right: Sequence[bool]) -> None:
        self.right, self.num_asked = right, 0

    def results(self, item_set: ItemSet, items: Sequence[Mapping[str, Any]]) -> list[Marked]:
        self.num_asked += len(items)
        scores = [float(self.right[int(item["id"])]) for item in items]
        return [
            Marked(item["id"], dict.fromkeys(item_set.metrics, score), "") for item, score in zip(items, scores, strict=True)
        ]


def choices(num_items: int, margin: float = 0.05, name: str = "pick") -> MultipleChoice:
    items = [{"id": str(i), "question": "?", "choices": ["a", "b"], "answer": 0} for i in range(num_items)]
    return MultipleChoice(name, items, margin=margin)


def compared(item_set: MultipleChoice, baseline: Sequence[bool], candidate: Sequence[bool]) -> tuple[Comparison, Scripted]:
    subject = Scripted(candidate)
    return compare_on(item_set, Scripted(baseline), subject, seed=0), subject  # type: ignore[arg-type]


def test_a_model_like_its_baseline_passes_with_enough_items() -> None:
    right = [i % 3 == 0 for i in range(200)]
    comparison, _ = compared(choices(200), right, right)
    assert comparison.verdict.outcome == "pass" and comparison.verdict.passed and comparison.verdict.violation < 0
    record = comparison.record()
    assert record["outcome"] == "pass" and record["margin"] == 0.05 and not record["stopped_early"]
    assert len(comparison.items_jsonl().splitlines()) == 200
    assert json.loads(comparison.items_jsonl().splitlines()[3])["baseline"]["scores"]["acc"] == 1.0


def test_too_few_items_are_inconclusive_and_do_not_pass() -> None:
    right = [True] * 40
    comparison, _ = compared(choices(40), right, right)
    assert comparison.verdict.outcome == "inconclusive" and not comparison.verdict.passed
    assert "inconclusive: needs about 33 more items" in comparison.verdict.shortfall()
    assert compared(choices(73), [True] * 73, [True] * 73)[0].verdict.passed


def test_a_clear_loss_fails_without_asking_all() -> None:
    rng = np.random.default_rng(0)
    baseline = rng.random(400) < 0.6
    comparison, subject = compared(choices(400), baseline.tolist(), (baseline & (rng.random(400) < 0.5)).tolist())
    assert comparison.is_stopped and comparison.verdict.outcome == "fail" and "ended early" in comparison.verdict.shortfall()
    assert subject.num_asked < 120


def test_a_clear_pass_ends_at_a_look_and_a_close_one_asks_all() -> None:
    right = [True] * 600
    sure, subject = compared(choices(600), right, right)
    assert sure.verdict.passed and subject.num_asked == len(sure.candidate) == sure.looks[0].size == 219
    assert sure.level == sure.looks[0].level > sure.looks[-1].level > 0.95
    close = [i % 30 != 0 for i in range(600)]
    comparison, subject = compared(choices(600), right, close)
    assert subject.num_asked == 600 and comparison.level == comparison.looks[-1].level
    assert comparison.record()["num_items"] == comparison.record()["max_items"] == 600


def test_sets_after_one_that_is_not_passed_are_not_asked() -> None:
    right, subject = [True] * 100, Scripted([True] * 100)
    sets = [choices(100, name="one"), choices(100, 0.001, name="two"), choices(100, name="three")]
    comparisons = compare_all(sets, Scripted(right), subject, seed=0)  # type: ignore[arg-type]
    assert {name: one.verdict.outcome for name, one in comparisons.items()} == {"one": "pass", "two": "inconclusive"}


def test_one_verdict_for_all_kinds_of_checks() -> None:
    sure = NonInferiority("acc", Paired.of([1.0] * 300, [1.0] * 300), 0.05)
    unsure = NonInferiority("acc", Paired.of([1.0] * 30, [1.0] * 30), 0.05)
    lost = NonInferiority("acc", Paired.of([1.0] * 300, [0.0] * 100 + [1.0] * 200), 0.05)
    wrong = Fidelity("exact", 3, ("one message: the special token '<s>' is split",))
    assert Verdict((sure, Fidelity("exact", 3, ()))).outcome == "pass"
    assert Verdict((sure, unsure)).outcome == "inconclusive"
    assert Verdict((lost, unsure)).outcome == "fail"
    assert Verdict((sure, wrong)).outcome == "fail" and "2 of 3 items are right, all must be" in Verdict((wrong,)).shortfall()
    assert str(lost).endswith("the interval excludes the margin")
    beyond = NonInferiority("acc", Paired.of([1.0] * 20, [0.0] * 2 + [1.0] * 18), 0.05)
    assert beyond.outcome == "inconclusive" and "with more items it would probably fail" in str(beyond)


@pytest.mark.parametrize("metric", ["f1", "exact"])
def test_a_metric_that_the_format_does_not_have(metric: str) -> None:
    with pytest.raises(ValueError, match="metric must be one of acc_norm, acc, acc_bytes, got"):
        MultipleChoice("pick", choices(1).items, metric=metric)
