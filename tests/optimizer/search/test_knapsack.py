"""Plans within a budget against enumeration; refinement on a loss that does not add up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.refinement import Refined, refine
from optimizer.records.ledger import Ledger
from optimizer.search.knapsack import Knapsack, Shares, total
from optimizer.search.warm_start import Assignment

SCHEMES = ("int4-g64-asym-a8", "int4-g32-asym", "int8")


@st.composite
def problems(draw: st.DrawFn) -> tuple[Shares, Shares]:
    """KL and cost, whole numbers, of up to five items with up to three schemes each."""
    offered = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))

    def shares() -> Shares:
        return {f"item{i}": {SCHEMES[j]: float(draw(st.integers(0, 40))) for j in range(n)} for i, n in enumerate(offered)}

    return shares(), shares()


def every_choice(shares: Shares) -> Iterator[Assignment]:
    for names in itertools.product(*shares.values()):
        yield dict(zip(shares, names, strict=True))


def least_kl(kl: Shares, cost: Shares, budget: float) -> float:
    return min((total(kl, c) for c in every_choice(kl) if total(cost, c) <= budget + 1e-9), default=float("inf"))


@given(problems(), st.floats(0, 1))
def test_costs_of_whole_steps_give_the_plan_that_enumeration_finds(problem: tuple[Shares, Shares], part: float) -> None:
    kl, cost = problem
    span = int(Knapsack(kl, cost).dearest - Knapsack(kl, cost).cheapest)
    knapsack = Knapsack(kl, cost, num_steps=max(1, span))
    budget = knapsack.cheapest + part * span
    choice = knapsack.choice(budget)
    assert total(cost, choice) <= budget
    assert total(kl, choice) == least_kl(kl, cost, budget)


@given(problems(), st.lists(st.floats(0, 1.1), min_size=2, max_size=4), st.integers(1, 30))
def test_with_coarse_steps_budgets_hold_and_the_stated_bound_and_order_too(
    problem: tuple[Shares, Shares], parts: list[float], num_steps: int
) -> None:
    kl, cost = problem
    knapsack = Knapsack(kl, cost, num_steps)
    budgets = sorted(knapsack.cheapest + part * (knapsack.dearest - knapsack.cheapest) for part in parts)
    choices = [knapsack.choice(budget) for budget in budgets]
    for budget, choice in zip(budgets, choices, strict=True):
        assert total(cost, choice) <= budget + 1e-6
        assert total(kl, choice) <= least_kl(kl, cost, budget - len(kl) * knapsack.step)
    predicted = [total(kl, choice) for choice in choices]
    assert predicted == sorted(predicted, reverse=True)


@given(problems())
def test_the_frontier_begins_with_the_cheapest_plan_and_ends_with_the_most_accurate(problem: tuple[Shares, Shares]) -> None:
    kl, cost = problem
    knapsack = Knapsack(kl, cost)
    choices = knapsack.choices()
    assert total(cost, choices[0]) == knapsack.cheapest
    assert total(kl, choices[-1]) == least_kl(kl, cost, float("inf"))


def test_a_budget_below_the_cheapest_plan_is_refused() -> None:
    shares = {"item": {"int8": 2.0, "int4-g32-asym": 1.0}}
    with pytest.raises(ValueError, match=r"the cheapest plan costs 1; got a budget of 0\.5"):
        Knapsack(shares, shares).choice(0.5)


KL = {f"layers.{i}.down": {"int4-g32-asym": 1.0 + 0.01 * i, "int8": 0.1} for i in range(6)}
COST = {item: {"int4-g32-asym": 1.0, "int8": 2.0} for item in KL}
BUDGET = 8.0


def interacting(choice: Assignment) -> float:
    """The last two items hurt each other more than sensitivities say, the first two less."""
    coarse = [name == "int4-g32-asym" for name in choice.values()]
    return total(KL, choice) + 2.0 * (coarse[0] + coarse[1] - coarse[4] - coarse[5])


def refined_in(folder: Path, num_evaluations: int, seen: list[Assignment]) -> Refined:
    def measure(choice: Assignment) -> float:
        seen.append(choice)
        return interacting(choice)

    ledger = Ledger(f"sqlite:///{folder}/study.db", "toy")
    return refine(ledger, Knapsack(KL, COST).choice(BUDGET), KL, COST, BUDGET, measure, num_evaluations, seed=0)


def test_refinement_finds_what_additive_sensitivities_miss(tmp_path: Path) -> None:
    refined = refined_in(tmp_path, 60, [])
    best = min(interacting(choice) for choice in every_choice(KL) if total(COST, choice) <= BUDGET)
    assert refined.kl == pytest.approx(best) and refined.kl < refined.start_kl
    assert total(COST, refined.choice) <= BUDGET


LEDGER = Ledger("sqlite://", "the loss below is of the choice alone, so examples share records")


@settings(max_examples=15)
@given(problems(), st.integers(0, 3), st.integers(1, 6))
def test_refinement_stays_within_its_budget_and_never_ends_above_its_start(
    problem: tuple[Shares, Shares], seed: int, num_evaluations: int
) -> None:
    kl, cost = problem
    knapsack = Knapsack(kl, cost)
    budget = (knapsack.cheapest + knapsack.dearest) / 2
    start = knapsack.choice(budget)

    def measure(choice: Assignment) -> float:
        return float(crc32(repr(sorted(choice.items())).encode()) % 1000)

    refined = refine(LEDGER, start, kl, cost, budget, measure, num_evaluations, seed)
    assert refined.kl <= refined.start_kl == measure(start)
    assert refined.kl == measure(refined.choice) and total(cost, refined.choice) <= budget
    assert refined.num_evaluations <= num_evaluations


def test_a_refinement_that_stopped_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    seen: list[Assignment] = []
    refined_in(tmp_path, 7, seen)
    resumed = refined_in(tmp_path, 12, seen)
    assert len(seen) == resumed.num_evaluations == 12
    (tmp_path / "whole").mkdir()
    assert refined_in(tmp_path / "whole", 12, []) == resumed
