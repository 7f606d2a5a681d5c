from __future__ import annotations

import math

import pytest

from optimizer.evaluation import Estimate, Evaluation, Gate


def evaluation(kl: Estimate, increase: Estimate, agreement: Estimate) -> Evaluation:
    perplexity = Estimate(20, 19, 21)
    return Evaluation(8, 1000, kl, agreement, perplexity, perplexity, increase)


GOOD = evaluation(Estimate(0.02, 0.015, 0.03), Estimate(0.004, -0.001, 0.009), Estimate(0.95, 0.93, 0.97))


def test_the_worse_end_decides() -> None:
    """Values within every limit fail where the interval is not."""
    verdict = Gate(max_kl=0.025, max_perplexity_increase=0.005, min_top1_agreement=0.94).judge(GOOD)
    assert [check.passed for check in verdict.checks] == [False, False, False]
    assert [check.margin for check in verdict.checks] == pytest.approx([-0.005, -0.004, -0.01])
    assert verdict.violation == pytest.approx(max(0.005 / 0.025, 0.004 / 0.005, 0.01 / 0.06))
    assert [check.bound for check in verdict.checks] == [0.03, 0.009, 0.93]


def test_a_bound_on_the_limit_passes() -> None:
    verdict = Gate(max_kl=0.03, max_perplexity_increase=0.009, min_top1_agreement=0.93).judge(GOOD)
    assert verdict.passed and verdict.shortfall() == "" and verdict.violation == 0
    assert [check.margin for check in verdict.checks] == [0, 0, 0]


def test_one_miss_fails_and_is_told() -> None:
    verdict = Gate(max_kl=0.025, min_top1_agreement=0.9).judge(GOOD)
    assert not verdict.passed
    missed = "kl 0.02 (0.015 to 0.03) must be at most 0.025 at 0.03: missed by 0.005"
    assert verdict.shortfall().startswith(f"{missed}, undecided; about 32 sequences would show it")


@pytest.mark.parametrize(
    ("gate", "outcomes"),
    [
        (Gate(max_kl=0.03, min_top1_agreement=0.93), ["pass", "pass"]),
        (Gate(max_kl=0.014, min_top1_agreement=0.98), ["fail", "fail"]),
        (Gate(max_kl=0.016, max_perplexity_increase=0.005, min_top1_agreement=0.94), ["inconclusive"] * 3),
    ],
)
def test_an_interval_that_contains_its_limit_decides_nothing(gate: Gate, outcomes: list[str]) -> None:
    assert [check.outcome for check in gate.judge(GOOD).checks] == outcomes


def test_a_value_beyond_its_limit_is_not_promised_to_pass() -> None:
    assert "on more text it would probably fail" in Gate(max_kl=0.016).judge(GOOD).shortfall()
    assert "on more text it would probably fail" in Gate(min_top1_agreement=0.96).judge(GOOD).shortfall()


@pytest.mark.parametrize(
    ("gate", "is_hopeless"),
    [
        (Gate(max_kl=0.0149), True),
        (Gate(max_kl=0.015), False),
        (Gate(max_perplexity_increase=-0.0011), True),
        (Gate(max_perplexity_increase=0.0), False),
        (Gate(min_top1_agreement=0.971), True),
        (Gate(min_top1_agreement=0.97), False),
        (Gate(max_kl=1, min_top1_agreement=0.971), True),
        (Gate(), False),
    ],
)
def test_hopeless_is_what_misses_a_limit_at_the_better_end_too(gate: Gate, is_hopeless: bool) -> None:
    assert gate.is_hopeless(GOOD) is is_hopeless


def test_only_limits_that_are_set_are_checked() -> None:
    assert Gate().judge(GOOD).passed and Gate().judge(GOOD).violation == 0
    assert [check.metric for check in Gate(max_perplexity_increase=0.01).judge(GOOD).checks] == ["perplexity_increase"]


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_nan_never_passes(limit: float) -> None:
    nan = Estimate(math.nan, math.nan, math.nan)
    gate = Gate(max_kl=limit, max_perplexity_increase=limit, min_top1_agreement=limit)
    verdict = gate.judge(evaluation(nan, nan, nan))
    assert [check.outcome for check in verdict.checks] == ["fail", "fail", "fail"]
    assert verdict.violation == math.inf


def test_a_limit_of_zero_admits_the_lossless() -> None:
    zero, one = Estimate(0, 0, 0), Estimate(1, 1, 1)
    verdict = Gate(0.0, 0.0, 1.0).judge(evaluation(zero, zero, one))
    assert verdict.passed and verdict.violation == 0
