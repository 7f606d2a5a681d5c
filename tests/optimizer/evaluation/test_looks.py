"""Looks: when they are taken, and how often what is over a limit passes at any of them, by simulation.

What sequences lose is drawn from what SmolLM2's lost (`benchmarks/sequence_scores.py`), so that its mean is known: a limit at
that mean is one that the plan is just over.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from optimizer.evaluation.comparison import looks_on
from optimizer.evaluation.confidence import ratio_of_sums
from optimizer.evaluation.evaluation import UNHEARD_KL
from optimizer.evaluation.gate import Verdict
from optimizer.evaluation.looks import ALPHA, Look, looks_between, until_decided
from optimizer.evaluation.paired import tango_interval
from optimizer.evaluation.sets.multiple_choice import MultipleChoice
from optimizer.evaluation.text_comparison import text_looks

RECORDED = Path(__file__).parents[3] / "benchmarks/results/2026-12-01-sequence-scores-smollm2-epyc-2core.json"
METRICS = ("kl", "log_perplexity_increase", "top1_disagreement")
Draw = Callable[[np.random.Generator, int], np.ndarray]


def test_looks_double_and_their_errors_add_up() -> None:
    looks = looks_between(16, 64)
    assert [look.size for look in looks] == [16, 32, 64]
    assert sum(1 - look.level for look in looks) / 2 == pytest.approx(ALPHA)
    assert [round(1000 * (1 - look.level) / 2, 2) for look in looks] == [1.56, 4.69, 18.75], "early looks are all but certain"


@pytest.mark.parametrize(
    ("first", "most", "sizes"), [(16, 16, [16]), (32, 16, [16]), (16, 20, [20]), (32, 100, [32, 57, 100]), (4, 9, [4, 9])]
)
def test_no_look_adds_only_a_little(first: int, most: int, sizes: list[int]) -> None:
    assert [look.size for look in looks_between(first, most)] == sizes


class Found:
    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


def test_nothing_is_decided_without_a_look() -> None:
    with pytest.raises(ValueError, match="got no look"):
        until_decided([], lambda look: Found(Verdict(())))


def recorded(metric: str) -> list[np.ndarray]:
    """What each sequence lost, plan by plan and text by text."""
    plans = json.loads(RECORDED.read_text())["scores"].values()
    return [np.array(text[metric]) for plan in plans for text in plan.values()]


def false_passes(draw: Draw, limit: float, looks: tuple[Look, ...], num_studies: int, unheard: float = 0.0) -> float:
    """How often a plan that loses `limit` on average is taken for one that loses less, at any look."""
    rng, passed = np.random.default_rng(1), 0
    for _ in range(num_studies):
        lost = draw(rng, looks[-1].size)
        for look in looks:
            heard = lost[: look.size]
            estimate = ratio_of_sums(heard, np.ones(look.size), seed=0, level=look.level, unheard=unheard)
            if estimate.high <= limit:
                passed += 1
                break
            if estimate.low > limit:
                break
    return passed / num_studies


def drawn_from(values: np.ndarray) -> Draw:
    return lambda rng, num: rng.choice(values, num)


def rates_of(metric: str, looks: tuple[Look, ...], num_studies: int) -> list[float]:
    """Of each plan and text of the record."""
    unheard = UNHEARD_KL if metric == "kl" else 0.0
    return [false_passes(drawn_from(lost), lost.mean(), looks, num_studies, unheard) for lost in recorded(metric)]


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_just_over_a_limit_passes_as_seldom_as_stated(metric: str) -> None:
    """2.5 % at most, plus three standard errors of 240 studies."""
    assert np.mean(rates_of(metric, text_looks(16, 64), 40)) <= ALPHA + 3 * (ALPHA / 240) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("first", "most"), [(16, 16), (16, 32), (16, 64), (32, 128)])
def test_the_error_rate_of_every_plan_and_budget(metric: str, first: int, most: int) -> None:
    rates = rates_of(metric, text_looks(first, most), 500)
    assert np.mean(rates) <= ALPHA + 2 * (ALPHA / 3000) ** 0.5
    assert max(rates) <= ALPHA + 3 * (ALPHA / 500) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.2, 0.4, 0.8])
def test_the_error_rate_under_a_long_tail(sigma: float) -> None:
    """Log-normal KL of sequences; of SmolLM2's it is 0.2."""

    def draw(rng: np.random.Generator, num: int) -> np.ndarray:
        return rng.lognormal(-(sigma**2) / 2, sigma, num)

    assert false_passes(draw, 1.0, text_looks(16, 64), 2000, UNHEARD_KL) <= ALPHA + 3 * (ALPHA / 2000) ** 0.5


def test_what_the_rates_are_held_by() -> None:
    """Without one error for all looks, or without room for a sequence that was not heard, they are broken."""
    careless = tuple(Look(size, 0.95) for size in (16, 32, 64))
    assert np.mean(rates_of("log_perplexity_increase", careless, 40)) > ALPHA + (ALPHA / 240) ** 0.5
    values = max(recorded("kl"), key=lambda lost: lost.max() / lost.mean())
    rates = [false_passes(drawn_from(values), values.mean(), text_looks(16, 64), 100, unheard) for unheard in (0, UNHEARD_KL)]
    assert rates[0] > 2 * ALPHA and rates[1] <= ALPHA


def false_passes_of_items(num_items: int, discordant: float, margin: float, num_studies: int) -> float:
    items = [{"id": str(i), "question": "?", "choices": ["a", "b"], "answer": 0} for i in range(num_items)]
    looks = looks_on(MultipleChoice("pick", items, margin=margin))
    worse, better = (discordant + margin) / 2, (discordant - margin) / 2

    @cache
    def passes(look: Look, num_worse: int, num_better: int) -> bool:
        return tango_interval(num_worse, num_better, look.size, look.level).low >= -margin

    rng, passed = np.random.default_rng(0), np.zeros(num_studies, bool)
    counts, heard = np.zeros((num_studies, 3), int), 0
    for look in looks:
        counts += rng.multinomial(look.size - heard, [worse, better, 1 - discordant], num_studies)
        heard = look.size
        passed |= [passes(look, int(w), int(b)) for w, b, _ in counts]
    return float(passed.mean())


@pytest.mark.parametrize(("num_items", "discordant", "margin"), [(1319, 0.1, 0.05), (1200, 0.02, 0.02)])
def test_items_at_the_margin_pass_as_seldom_as_stated(num_items: int, discordant: float, margin: float) -> None:
    assert false_passes_of_items(num_items, discordant, margin, 3000) <= ALPHA + 2 * (ALPHA / 3000) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("num_items", [150, 500, 1319, 5000])
@pytest.mark.parametrize("margin", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("excess", [0.0, 0.05, 0.2])
def test_the_error_rate_of_many_sets_of_items(num_items: int, margin: float, excess: float) -> None:
    assert false_passes_of_items(num_items, margin + excess, margin, 20_000) <= 0.0285


def test_more_sequences_pass_what_few_cannot() -> None:
    """A plan that loses seven eighths of its limit: 16 sequences seldom show it, 64 do."""
    (values, *_), few, many = recorded("top1_disagreement"), text_looks(16, 16), text_looks(16, 64)
    shown = [false_passes(drawn_from(values), values.mean() * 8 / 7, looks, 60) for looks in (few, many)]
    assert shown[0] < 0.8 and shown[1] > 0.85


def test_the_recorded_losses_have_a_spread_and_a_tail() -> None:
    """What is simulated with is no toy: sequences differ by half, and one by several times the mean."""
    kl = [values / values.mean() for values in recorded("kl")]
    assert all(values.std() > 0.1 for values in kl) and max(values.max() for values in kl) > 2.5


def test_on_text_of_its_own_the_expected_loss_is_the_one_seen() -> None:
    """The mean KL of tokens that the model drew is the mean of what is lost on them, within its standard error."""
    for plan in json.loads(RECORDED.read_text())["scores"].values():
        more = np.array(plan["sampled"]["log_perplexity_increase"]) - np.array(plan["sampled"]["kl"])
        assert abs(more.mean()) < 2.5 * more.std() / len(more) ** 0.5
