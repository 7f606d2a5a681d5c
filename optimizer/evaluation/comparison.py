"""A candidate against its baseline on one set, item by item, and what of it goes into evaluation.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from optimizer.evaluation.evaluation import rounded
from optimizer.evaluation.gate import Fidelity, NonInferiority, Verdict
from optimizer.evaluation.looks import Look, looks_between, until_decided
from optimizer.evaluation.paired import Paired, least_items
from optimizer.evaluation.sequential import Hopelessness
from optimizer.evaluation.sets.item_set import ItemSet, Marked

#: items that are asked together, and between two looks of the sequential test
BATCH_ITEMS = 16


class Asked(Protocol):
    """A model that answers items: a `Subject`, or what stands behind an endpoint."""

    def results(self, item_set: ItemSet, items: Sequence[Mapping[str, Any]]) -> list[Marked]:
        """One result for each item."""
        ...


@dataclass(frozen=True)
class Comparison:
    """Results of both models on the items of a set that were asked, in their order, and the gate's verdict on them."""

    item_set: ItemSet
    baseline: tuple[Marked, ...]
    candidate: tuple[Marked, ...]
    is_stopped: bool
    seed: int
    looks: tuple[Look, ...]
    """Those that could have been taken, the last of them after all items."""

    @property
    def level(self) -> float:
        """Confidence of the intervals: that of the look which ends with the items that were asked, else of the last one."""
        return next((look.level for look in self.looks if look.size == len(self.candidate)), self.looks[-1].level)

    def paired(self, metric: str) -> Paired:
        """Both models' scores by one of the set's metrics."""
        return Paired.of(
            [marked.scores[metric] for marked in self.baseline],
            [marked.scores[metric] for marked in self.candidate],
            seed=self.seed,
            level=self.level,
        )

    @property
    def verdict(self) -> Verdict:
        item_set, metric = self.item_set, self.item_set.metric
        if item_set.is_exact:
            wrong = tuple(marked.answer for marked in self.candidate if marked.scores[metric] < 1)
            return Verdict((Fidelity(metric, len(self.candidate), wrong),))
        return Verdict((NonInferiority(metric, self.paired(metric), item_set.margin, self.is_stopped),))

    def record(self) -> dict[str, object]:
        """Plain data for evaluation.json; floats have 9 significant digits. The items themselves are `items_jsonl`."""
        item_set, verdict = self.item_set, self.verdict
        record: dict[str, object] = {
            "format": item_set.format,
            "metric": item_set.metric,
            "num_items": len(self.candidate),
            "max_items": len(item_set.items),
            "outcome": verdict.outcome,
            "verdict": str(verdict.checks[0]),
        }
        if item_set.is_exact:
            return record
        scores = {}
        for metric in item_set.metrics:
            paired = self.paired(metric)
            scores[metric] = {
                "baseline": rounded(paired.baseline),
                "candidate": rounded(paired.candidate),
                "difference": {name: rounded(value) for name, value in asdict(paired.difference).items()},
                "num_worse": paired.num_worse,
                "num_better": paired.num_better,
                "mcnemar_p": rounded(paired.mcnemar_p),
            }
        level = rounded(self.level)
        return record | {"margin": item_set.margin, "level": level, "stopped_early": self.is_stopped, "scores": scores}

    def items_jsonl(self) -> str:
        """A line per item: its id, both models' scores and answers."""
        lines = (
            {
                "item": ours.item,
                "baseline": {"scores": dict(theirs.scores), "answer": theirs.answer},
                "candidate": {"scores": dict(ours.scores), "answer": ours.answer},
            }
            for theirs, ours in zip(self.baseline, self.candidate, strict=True)
        )
        return "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)


def compare_on(
    item_set: ItemSet,
    baseline: Asked,
    candidate: Asked,
    *,
    seed: int,
    on_item: Callable[[], object] = lambda: None,
) -> Comparison:
    """Ask both models the set's items in turn, until a look decides or all are asked; hopeless candidates end between looks.

    Ending a hopeless one can only refuse it, so that it does not touch the probability of passing one that is worse.
    `seed` is the bootstrap's; `on_item` is called after each item.
    """
    test, looks, metric = Hopelessness(item_set.margin), looks_on(item_set), item_set.metric
    theirs, ours = list[Marked](), list[Marked]()

    def found(*, is_stopped: bool = False) -> Comparison:
        return Comparison(item_set, tuple(theirs), tuple(ours), is_stopped, seed, looks)

    def look_at(look: Look) -> Comparison:
        while len(ours) < look.size:
            batch = item_set.items[len(ours) : min(len(ours) + BATCH_ITEMS, look.size)]
            known, mine = baseline.results(item_set, batch), candidate.results(item_set, batch)
            theirs.extend(known)
            ours.extend(mine)
            test.add(b.scores[metric] - a.scores[metric] for a, b in zip(known, mine, strict=True))
            for _ in batch:
                on_item()
            if test.is_hopeless and not item_set.is_exact:
                return found(is_stopped=True)
        return found()

    return until_decided(looks, look_at)


def looks_on(item_set: ItemSet) -> tuple[Look, ...]:
    """From so many items that an agreeing candidate passes, to all of them; one where every item must be right."""
    most = len(item_set.items)
    # An early look is at a higher confidence, and so takes up to three times as many items as one at 95 %.
    return looks_between(most if item_set.is_exact else 3 * least_items(item_set.margin), most)


def compare_all(
    sets: Sequence[ItemSet], baseline: Asked, candidate: Asked, *, seed: int, on_item: Callable[[], object] = lambda: None
) -> dict[str, Comparison]:
    """Set name -> comparison, up to the first set that is not passed: its candidate has failed, whatever the others say."""
    comparisons: dict[str, Comparison] = {}
    for item_set in sets:
        comparisons[item_set.name] = compare_on(item_set, baseline, candidate, seed=seed, on_item=on_item)
        if not comparisons[item_set.name].verdict.passed:
            break
    return comparisons
