"""Last stage: finalists on text and items that no trial has seen, and the winner's speed, beside the unquantized model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from optimizer.evaluation import Comparison, NoScore, TextComparison, Verdict
from optimizer.search.precision import Trial, pareto_front

ChoiceRule = Literal["fastest", "most_accurate", "smallest"]

#: trials that are proved although they would hardly pass, where no other one does
_LAST_RESORTS = 3


class NothingPasses(Exception):
    """No plan is within the gate; the message says by how much the best missed."""


@dataclass(frozen=True)
class Proven:
    """A trial that passed on unseen text and on every set of items; a verdict for each of both."""

    trial: Trial
    texts: dict[str, TextComparison]
    comparisons: dict[str, Comparison]
    verdicts: dict[str, Verdict]


def finalists(trials: Sequence[Trial], rule: ChoiceRule, size_bytes: Callable[[Trial], float]) -> list[Trial]:
    """Trials worth proving, best first by the user's rule: the front of those within the gate on the search's text.

    `smallest` may prefer a plan that is neither fastest nor most accurate, so it looks at every feasible trial. Behind them
    come a few that the search's text does not exclude, likely ones first.
    """
    undecided = sorted((t for t in trials if not t.is_feasible and not t.is_hopeless), key=lambda t: (t.violation, t.number))
    front = pareto_front(trials)
    if rule == "most_accurate":
        front = front[::-1]
    if rule == "smallest":
        front = sorted((t for t in trials if t.is_feasible), key=lambda t: (size_bytes(t), t.latency_ms, t.number))
    return [*front, *undecided[:_LAST_RESORTS]]


def prove(
    candidates: Sequence[Trial],
    on_texts: Callable[[Trial], dict[str, TextComparison]],
    on_items: Callable[[Trial], dict[str, Comparison]] = lambda trial: {},
    explain: Callable[[Trial, Mapping[str, TextComparison]], Sequence[str]] | None = None,
) -> Proven:
    """The first candidate that passes the gate on the proof texts, and then on the sets of items. NothingPasses if none does.

    `explain` says of the trial that came closest how it missed the texts, given what it lost there.
    """
    best: tuple[tuple[bool, float], Trial, dict[str, TextComparison], str] | None = None
    refused = ""
    for trial in candidates:
        try:
            texts = on_texts(trial)
        except NoScore as error:
            refused = f"trial {trial.number}: {error}"
            continue
        comparisons: dict[str, Comparison] = {}
        verdicts = {name: text.verdict for name, text in texts.items()}
        passes_texts = all(verdict.passed for verdict in verdicts.values())
        if passes_texts:
            comparisons = on_items(trial)
            verdicts |= {name: comparison.verdict for name, comparison in comparisons.items()}
        failed = {name: verdict for name, verdict in verdicts.items() if not verdict.passed}
        if not failed:
            return Proven(trial, texts, comparisons, verdicts)
        miss = not passes_texts, max(verdict.violation for verdict in failed.values())
        shortfall = "\n".join(f"  {name}: {verdict.shortfall()}" for name, verdict in failed.items())
        if best is None or miss < best[0]:
            best = miss, trial, texts, shortfall
    if best is None:
        if refused:
            raise NothingPasses(refused)
        raise ValueError("prove() needs at least one candidate")
    (misses_texts, _), trial, texts, shortfall = best
    where = "unseen text" if misses_texts else "the sets of items"
    why = "\n".join(f"  {clause}" for clause in explain(trial, texts)) if misses_texts and explain is not None else shortfall
    raise NothingPasses(f"of {len(candidates)} finalists, trial {trial.number} came closest on {where}:\n{why}")
