"""Last stage: finalists on text and items that no trial has seen, and the winner's speed, beside the unquantized model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from optimizer.evaluation import Comparison, Evaluation, Gate, NoScore, Verdict
from optimizer.search.accuracy import judge_all
from optimizer.search.precision import Trial, pareto_front

ChoiceRule = Literal["fastest", "most_accurate", "smallest"]


class NothingPasses(Exception):
    """No plan is within the gate; the message says by how much the best missed."""


@dataclass(frozen=True)
class Proven:
    """A trial that passed on unseen text and on every set of items; a verdict for each of both."""

    trial: Trial
    evaluations: dict[str, Evaluation]
    comparisons: dict[str, Comparison]
    verdicts: dict[str, Verdict]


def finalists(trials: Sequence[Trial], rule: ChoiceRule, size_bytes: Callable[[Trial], float]) -> list[Trial]:
    """Trials worth proving, best first by the user's rule: the front of those within the gate on the search's text.

    `smallest` may prefer a plan that is neither fastest nor most accurate, so it looks at every feasible trial.
    """
    front = pareto_front(trials)
    if rule == "fastest":
        return front
    if rule == "most_accurate":
        return front[::-1]
    return sorted((t for t in trials if t.is_feasible), key=lambda t: (size_bytes(t), t.latency_ms, t.number))


def prove(
    candidates: Sequence[Trial],
    gate: Gate,
    evaluate: Callable[[Trial], dict[str, Evaluation]],
    compare: Callable[[Trial], dict[str, Comparison]] = lambda trial: {},
    margins: Mapping[str, float] = MappingProxyType({}),
    explain: Callable[[Trial], Sequence[str]] | None = None,
) -> Proven:
    """The first candidate that passes the gate on the proof texts, and then on the sets of items. NothingPasses if none does.

    `margins`, by the name of a text, are limits of its own on the perplexity increase. `explain` says of the trial that came
    closest how it missed the texts.
    """
    best: tuple[tuple[bool, float], Trial, str] | None = None
    refused = ""
    for trial in candidates:
        try:
            evaluations = evaluate(trial)
        except NoScore as error:
            refused = f"trial {trial.number}: {error}"
            continue
        comparisons: dict[str, Comparison] = {}
        verdicts = judge_all(gate, evaluations, margins)
        passes_texts = all(verdict.passed for verdict in verdicts.values())
        if passes_texts:
            comparisons = compare(trial)
            verdicts |= {name: comparison.verdict for name, comparison in comparisons.items()}
        failed = {name: verdict for name, verdict in verdicts.items() if not verdict.passed}
        if not failed:
            return Proven(trial, evaluations, comparisons, verdicts)
        miss = not passes_texts, max(verdict.violation for verdict in failed.values())
        shortfall = "\n".join(f"  {name}: {verdict.shortfall()}" for name, verdict in failed.items())
        if best is None or miss < best[0]:
            best = miss, trial, shortfall
    if best is None:
        if refused:
            raise NothingPasses(refused)
        raise ValueError("prove() needs at least one candidate")
    (misses_texts, _), trial, shortfall = best
    where = "unseen text" if misses_texts else "the sets of items"
    why = "\n".join(f"  {clause}" for clause in explain(trial)) if misses_texts and explain is not None else shortfall
    raise NothingPasses(f"of {len(candidates)} finalists, trial {trial.number} came closest on {where}:\n{why}")
