"""Plans of least predicted KL within a budget of latency, or of any other cost that adds up over layer groups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from optimizer.search.warm_start import Assignment

#: item -> scheme name -> its share, in nats or in units of cost. An item is whatever takes one scheme: a band, a layer group
Shares = Mapping[str, Mapping[str, float]]


class Knapsack:
    """The multiple-choice knapsack: one scheme for each item, sums of `kl` and of `cost`, by dynamic programming.

    Costs above an item's cheapest scheme are rounded up to whole steps of (dearest plan - cheapest plan) / `num_steps`,
    whatever the budget. So no plan exceeds its budget, a larger budget never predicts a higher KL, and a plan predicts at most
    the KL of the best one within `budget - num_items * step`; where all costs are whole steps it is the best.
    """

    def __init__(self, kl: Shares, cost: Shares, num_steps: int = 1 << 16) -> None:
        self.cheapest = sum(min(costs.values()) for costs in cost.values())
        self.dearest = sum(max(costs.values()) for costs in cost.values())
        self.step = (self.dearest - self.cheapest) / num_steps or 1.0
        self._options: dict[str, list[tuple[int, str]]] = {}
        self._taken: dict[str, NDArray[np.int8]] = {}
        least = np.zeros(num_steps + len(cost) + 1)  # [steps that may be spent]: rounding up adds less than one an item
        for item, costs in cost.items():
            lowest = min(costs.values())
            steps = {name: int(np.ceil((costs[name] - lowest) / self.step - 1e-9)) for name in kl[item]}
            self._options[item] = sorted((num, name) for name, num in steps.items())
            sums = np.full((len(steps), len(least)), np.inf)
            for row, (num, name) in zip(sums, self._options[item], strict=True):
                row[num:] = least[: len(least) - num] + kl[item][name]
            self._taken[item] = sums.argmin(axis=0).astype(np.int8)
            least = sums.min(axis=0)

    def choice(self, budget: float) -> Assignment:
        """The plan that costs at most `budget`; ValueError if the cheapest plan costs more."""
        if budget < self.cheapest * (1 - 1e-12):
            raise ValueError(f"the cheapest plan costs {self.cheapest:.6g}; got a budget of {budget:.6g}: give at least that")
        left = len(next(iter(self._taken.values()))) - 1
        if budget < self.dearest:
            left = max(0, int((budget - self.cheapest) / self.step + 1e-9))
        chosen: Assignment = {}
        for item in reversed(self._taken):
            num, chosen[item] = self._options[item][self._taken[item][left]]
            left -= num
        return {item: chosen[item] for item in self._taken}

    def choices(self, num_budgets: int = 24) -> list[Assignment]:
        """Plans at evenly spaced budgets from the cheapest plan to the dearest, without repetition."""
        found: list[Assignment] = []
        for budget in np.linspace(self.cheapest, self.dearest, num_budgets):
            choice = self.choice(float(budget))
            if choice not in found:
                found.append(choice)
        return found


def total(shares: Shares, choice: Assignment) -> float:
    """The sum of what each item's scheme adds."""
    return sum(shares[item][name] for item, name in choice.items())
