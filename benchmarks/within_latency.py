"""Three plans within one latency: by latency, by average bits, and uniform; and how much KL each loses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from artifacts.layer_groups import kind_of
from artifacts.precision import Plan, Scheme
from benchmarks.refinement import refine
from optimizer.cost.provider import CostProvider
from optimizer.evaluation import Estimate
from optimizer.evaluation.confidence import ratio_of_sums
from optimizer.records.ledger import Ledger
from optimizer.search.knapsack import Knapsack, Shares, total
from optimizer.search.warm_start import Assignment

NUM_BUDGETS = 1000


@dataclass(frozen=True)
class WithinLatency:
    """Solves and scores. `kl_of` predicts an item's KL in nats, `probe_kl` measures a plan's for the refinement, of at most
    `num_evaluations` plans, `held_out_kl` for the report: one value a sequence, all of one length."""

    items: Mapping[str, Sequence[str]]
    num_weights: Mapping[str, int]
    """Layer group -> its number of weights."""
    uniform: Sequence[Scheme]
    kl_of: Callable[[str, Scheme], float]
    probe_kl: Callable[[Plan], float]
    held_out_kl: Callable[[Plan], list[float]]
    ledger: Ledger
    num_evaluations: int

    def point(self, limit_ms: float, cost: CostProvider, schemes: Sequence[Scheme]) -> tuple[dict[str, Any], dict[str, Plan]]:
        """What the three lose of KL at `limit_ms`, and the two solved plans.

        The solver by bits is given the best budget that hindsight knows; it has no plan where none is within the limit.
        """

        def ms(choice: Assignment) -> float:
            return cost.latency_ms(self._plan(choice))

        def result_of(choice: Assignment) -> dict[str, Any]:
            return {
                "latency_ms": ms(choice),
                "bits_per_weight": total(self._bits(self.uniform), choice),
                "kl": asdict(mean(self._held_out_kl(choice))),
                "items": _counts(choice),
            }

        whole = [dict.fromkeys(self.items, scheme.name) for scheme in self.uniform]
        best_uniform = min((choice for choice in whole if ms(choice) <= limit_ms), key=lambda c: sum(self._held_out_kl(c)))
        latency = self._shares(schemes, lambda item, s: sum(cost.group_ms(group, s) for group in self.items[item]))
        bits, kl = self._bits(schemes), self._shares(schemes, self.kl_of)
        any_plan = dict.fromkeys(self.items, schemes[0].name)
        ours, steps = self._solved(kl, latency, limit_ms - (ms(any_plan) - total(latency, any_plan)))
        by_bits = Knapsack(kl, bits).choices(NUM_BUDGETS)
        fitting = [choice for choice in by_bits if ms(choice) <= limit_ms]
        point = {
            "latency_limit_ms": limit_ms,
            "by_latency": result_of(ours) | steps,
            "best_uniform": {"scheme": next(iter(best_uniform.values()))} | result_of(best_uniform),
            "kl_relative_to_best_uniform": self._ratio(ours, best_uniform),
            "plans_by_average_bits": {"solved": len(by_bits), "within_latency": len(fitting)},
        }
        plans = {"by_latency": self._plan(ours)}
        if fitting:
            most_accurate = min(fitting, key=lambda choice: total(kl, choice))
            theirs, steps = self._solved(kl, bits, total(bits, most_accurate))
            point["by_average_bits"] = result_of(theirs) | steps
            point["kl_relative_to_by_average_bits"] = self._ratio(ours, theirs)
            plans["by_average_bits"] = self._plan(theirs)
        return point, plans

    def _solved(self, kl: Shares, cost: Shares, budget: float) -> tuple[Assignment, dict[str, float]]:
        """The plan for `budget`, refined, and what was predicted and measured on the way."""

        def probe_kl(choice: Assignment) -> float:
            return self.probe_kl(self._plan(choice))

        start = Knapsack(kl, cost).choice(budget)
        refined = refine(self.ledger, start, kl, cost, budget, probe_kl, self.num_evaluations, seed=0)
        return refined.choice, {
            "predicted_kl": total(kl, start),
            "probe_kl_before_refinement": refined.start_kl,
            "probe_kl": refined.kl,
        }

    def _bits(self, schemes: Sequence[Scheme]) -> Shares:
        """What an item adds to the average bits per weight of the model."""
        every = sum(self.num_weights.values())
        part = {item: sum(self.num_weights[group] for group in groups) / every for item, groups in self.items.items()}
        return self._shares(schemes, lambda item, scheme: scheme.bits_per_weight * part[item])

    def _shares(self, schemes: Sequence[Scheme], of: Callable[[str, Scheme], float]) -> Shares:
        return {item: {scheme.name: of(item, scheme) for scheme in schemes} for item in self.items}

    def _plan(self, choice: Assignment) -> Plan:
        return {group: Scheme.parse(choice[item]) for item, groups in self.items.items() for group in groups}

    def _held_out_kl(self, choice: Assignment) -> list[float]:
        return self.held_out_kl(self._plan(choice))

    def _ratio(self, ours: Assignment, theirs: Assignment) -> dict[str, float]:
        """Of the mean KL, with its interval over the sequences that both have in common."""
        return asdict(ratio_of_sums(self._held_out_kl(ours), self._held_out_kl(theirs), seed=0))


def mean(kl: Sequence[float]) -> Estimate:
    """Over sequences of one length."""
    return ratio_of_sums(kl, [1.0] * len(kl), seed=0)


def _counts(choice: Assignment) -> dict[str, dict[str, int]]:
    """Kind of layer group -> scheme -> number of items."""
    counts: dict[str, dict[str, int]] = {}
    for item, name in choice.items():
        of_kind = counts.setdefault(kind_of(item), {})
        of_kind[name] = of_kind.get(name, 0) + 1
    return counts
