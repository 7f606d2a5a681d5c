"""Why a plan is not within the gate, and what would be: limits, values, the sequence that weighs most, a wider KV cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from artifacts.precision import Plan
from optimizer.evaluation import Check, Evaluation, Gate, Metric, NoScore, SequenceScore, TextComparison, Verdict
from optimizer.search.accuracy import Judge, judge_all


def explain(
    gate: Gate,
    judge: Judge,
    plan: Plan,
    margins: Mapping[str, float] = MappingProxyType({}),
    heard: Mapping[str, TextComparison] | None = None,
) -> list[str]:
    """Every limit that `plan` misses on `judge`'s texts, and what the same plan measures with nothing lost in the KV cache.

    Where that does not pass either, what unquantized weights measure over the plan's own cache. `margins`, by the name of a
    text, are limits of its own on the perplexity increase. `heard` is what is known of the plan, on more text. A clause each.
    """
    kv_dtype, exact = judge.workbench.kv_dtype, judge.workbench.exact().kv_dtype
    if heard is None:
        scores: Mapping[str, Sequence[SequenceScore]] = judge.scores(plan)
        verdicts = judge_all(gate, _evaluations(judge, scores), margins)
    else:
        scores = {name: text.scores for name, text in heard.items()}
        verdicts = {name: text.verdict for name, text in heard.items()}
    clauses = [f"{name}: {line}" for name, verdict in verdicts.items() for line in _shortfalls(verdict, scores[name])]
    if kv_dtype != exact:
        passes, measured = _measured(gate, judge.on(exact), plan, margins)
        clauses.append(f"over a KV cache of {exact} instead of {kv_dtype} the same plan has {measured}")
        if passes:
            return [*clauses, f"offer {exact}, or another that loses less than {kv_dtype}, in search.space: precision.kv_cache"]
    passes, measured = _measured(gate, judge, judge.baseline, margins)
    clauses.append(f"over its KV cache of {kv_dtype} unquantized weights have {measured}")
    advice = "offer finer schemes in search.space: precision.groups" if passes else "no weights pass over that cache"
    return [*clauses, f"{advice}, or raise the limit"]


def _measured(gate: Gate, judge: Judge, plan: Plan, margins: Mapping[str, float]) -> tuple[bool, str]:
    try:
        evaluations = _evaluations(judge, judge.scores(plan))
    except NoScore as error:
        return False, f"no result: {error}"
    kl = max((evaluation.kl for evaluation in evaluations.values()), key=lambda estimate: estimate.value)
    passes = all(verdict.passed for verdict in judge_all(gate, evaluations, margins).values())
    return passes, f"KL {kl.value:.4g} ({kl.low:.4g} to {kl.high:.4g}) and {'passes' if passes else 'does not pass either'}"


def _evaluations(judge: Judge, scores: Mapping[str, Sequence[SequenceScore]]) -> dict[str, Evaluation]:
    return {name: Evaluation.of(found, seed=judge.seed) for name, found in scores.items()}


def _shortfalls(verdict: Verdict, scores: Sequence[SequenceScore]) -> list[str]:
    return [
        f"{check}; {_heaviest(check.metric, scores)}"
        for check in verdict.checks
        if isinstance(check, Check) and not check.passed
    ]


def _lost(metric: Metric, score: SequenceScore) -> float:
    """What a sequence adds to the sum that `metric` is a mean of, the more the worse."""
    if metric == "kl":
        return score.kl
    if metric == "perplexity_increase":
        return score.log_likelihood_lost
    return score.num_tokens - score.num_top1_agreements


def _heaviest(metric: Metric, scores: Sequence[SequenceScore]) -> str:
    """The sequence without which the metric would be best."""
    lost = [_lost(metric, score) for score in scores]
    index = max(range(len(scores)), key=lambda i: lost[i])
    share = f", {lost[index] / sum(lost):.0%} of it," if sum(lost) > 0 else ""
    kl = scores[index].kl / scores[index].num_tokens
    return f"sequence {index + 1} of {len(scores)} weighs most{share} with KL {kl:.4g}"
