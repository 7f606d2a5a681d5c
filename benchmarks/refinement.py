"""What additive sensitivities miss: swaps in a plan, kept where the whole plan's measured KL falls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from artifacts.precision import Scheme
from optimizer.records.ledger import Ledger
from optimizer.records.plan_digest import plan_digest
from optimizer.search.knapsack import Shares, total
from optimizer.search.warm_start import Assignment

#: Standard deviation of the logarithm of what an item's KL in a whole plan is of its KL alone, as far as swaps suppose.
_DOUBT = 0.5


@dataclass(frozen=True)
class Refined:
    """A plan, its measured KL, and the start's; `num_evaluations` counts both."""

    choice: Assignment
    kl: float
    start_kl: float
    num_evaluations: int


def refine(
    ledger: Ledger,
    start: Assignment,
    kl: Shares,
    cost: Shares,
    budget: float,
    measure: Callable[[Assignment], float],
    num_evaluations: int,
    seed: int,
) -> Refined:
    """Greedy descent from `start` in `num_evaluations` calls of `measure`, the KL in nats of a whole plan.

    A swap gives one or two items other schemes and stays within `budget`. Tried next is the one of least predicted KL among
    those not tried, with every item's `kl` times a random factor: the plan at hand is already the best one that the
    sensitivities predict, so a swap can only pay where they are wrong. Measured plans are records of `ledger`, whose
    name must say what they were measured on.
    """
    rng = np.random.default_rng(seed)

    def measured(choice: Assignment) -> float:
        plan = {item: Scheme.parse(name) for item, name in choice.items()}
        return ledger.once(f"whole plan/{plan_digest(plan)}", lambda: measure(choice))

    best, best_kl = start, measured(start)
    start_kl, tried = best_kl, [start]
    while len(tried) < num_evaluations:
        doubts = dict(zip(kl, np.exp(_DOUBT * rng.standard_normal(len(kl))), strict=True))
        swapped = next((c for c in _swaps(best, kl, cost, budget, doubts) if c not in tried), None)
        if swapped is None:
            break
        tried.append(swapped)
        if (swapped_kl := measured(swapped)) < best_kl:
            best, best_kl = swapped, swapped_kl
    return Refined(best, best_kl, start_kl, len(tried))


def _swaps(choice: Assignment, kl: Shares, cost: Shares, budget: float, doubts: dict[str, float]) -> Iterator[Assignment]:
    """Every plan that differs from `choice` in one or two items and costs at most `budget`, least predicted KL first."""
    moves = [(item, name) for item in kl for name in kl[item] if name != choice[item]]
    number = {item: index for index, item in enumerate(kl)}
    # The last row stands for no second move.
    items = np.array([*(number[item] for item, _ in moves), -1])
    gains = np.array([*(doubts[item] * (kl[item][name] - kl[item][choice[item]]) for item, name in moves), 0.0])
    costs = np.array([*(cost[item][name] - cost[item][choice[item]] for item, name in moves), 0.0])
    first, second = np.nonzero(
        (items[:, None] > items[None, :]) & (total(cost, choice) + costs[:, None] + costs[None, :] <= budget)
    )
    for index in np.argsort(gains[first] + gains[second], kind="stable"):
        pair = (move for move in (first[index], second[index]) if move < len(moves))
        yield {**choice, **dict(moves[move] for move in pair)}
