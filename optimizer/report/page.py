"""report.html: one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from optimizer.evaluation import Check, Estimate
from optimizer.report import charts, maps
from optimizer.report.data import ReportData, SetAccuracy, SetItems, StepLatency
from optimizer.report.quantities import byte_size, figures, percentage

_METRICS = {
    "kl": ("KL to the baseline", "nats per token"),
    "top1_agreement": ("top-1 agreement", "of tokens"),
    "perplexity_increase": ("perplexity increase", "over the baseline, paired"),
    "perplexity": ("perplexity", "of the chosen plan"),
    "baseline_perplexity": ("baseline perplexity", "unquantized"),
}
_FRACTIONS = ("top1_agreement", "perplexity_increase")


@dataclass(frozen=True)
class AccuracyRow:
    """A line of the accuracy table, in words."""

    metric: str
    unit: str
    value: str
    low: str
    high: str
    limit: str
    margin: str
    passed: bool | None
    bar: Markup


@dataclass(frozen=True)
class ItemRow:
    """One metric of a set of items, in words. `limit` and `verdict` are empty where the gate reads another metric."""

    set_name: str
    metric: str
    num_items: int
    baseline: str
    candidate: str
    difference: str
    discordant: str
    limit: str
    verdict: str
    passed: bool | None


def report_environment() -> Environment:
    """What the pages of this folder are rendered in: everything is escaped, and numbers have filters."""
    environment = Environment(
        loader=PackageLoader("optimizer.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"figures": figures, "byte_size": byte_size, "percentage": percentage}
    return environment


def render_report(data: ReportData) -> str:
    """report.html of `data`: one self-contained page (no script, no request), the same bytes for the same data."""
    return (
        report_environment()
        .get_template("report.html.jinja")
        .render(
            data=data,
            charts=charts,
            maps=maps,
            accuracy_rows=[(accuracy, _accuracy_rows(accuracy)) for accuracy in data.accuracy],
            item_rows=[row for one in data.items for row in _item_rows(one)],
            front=sorted((trial for trial in data.trials if trial.on_front), key=lambda t: (t.latency_ms, t.number)),
            surface=_surface(data.step_latencies),
            heat_steps=range(maps.HEAT_STEPS),
        )
    )


def _accuracy_rows(accuracy: SetAccuracy) -> list[AccuracyRow]:
    checks: Mapping[str, Check] = {check.metric: check for check in accuracy.verdict.checks if isinstance(check, Check)}
    return [_accuracy_row(metric, getattr(accuracy.evaluation, metric), checks.get(metric)) for metric in _METRICS]


def _accuracy_row(metric: str, estimate: Estimate, check: Check | None) -> AccuracyRow:
    def written(value: float) -> str:
        return percentage(value) if metric in _FRACTIONS else figures(value)

    limit = "" if check is None else f"{100 * check.limit:g}\N{NO-BREAK SPACE}%" if metric in _FRACTIONS else f"{check.limit:g}"
    name, unit = _METRICS[metric]
    is_ceiling = metric != "top1_agreement"
    return AccuracyRow(
        metric=name,
        unit=unit,
        value=written(estimate.value),
        low=written(estimate.low),
        high=written(estimate.high),
        limit=f"{'≤' if is_ceiling else '≥'}\N{NO-BREAK SPACE}{limit}" if check else "",
        margin=f"{written(abs(check.margin))} {'left' if check.passed else 'missed'}" if check else "",
        passed=check.passed if check else None,
        bar=charts.interval_bar(estimate.value, estimate.low, estimate.high, check.limit, is_ceiling=is_ceiling)
        if check
        else Markup(),
    )


def _item_rows(one: SetItems) -> list[ItemRow]:
    comparison = one.comparison
    item_set, verdict, num_items = comparison.item_set, comparison.verdict, len(comparison.candidate)
    if item_set.is_exact:
        right = sum(marked.scores[item_set.metric] for marked in comparison.candidate)
        score = percentage(right / num_items)
        return [ItemRow(one.set_name, item_set.metric, num_items, "", score, "", "", "all", verdict.outcome, verdict.passed)]
    rows = []
    for metric in sorted(item_set.metrics, key=lambda metric: metric != item_set.metric):
        paired, is_read = comparison.paired(metric), metric == item_set.metric
        difference = paired.difference
        rows.append(
            ItemRow(
                set_name=one.set_name,
                metric=metric,
                num_items=num_items,
                baseline=percentage(paired.baseline),
                candidate=percentage(paired.candidate),
                difference=f"{100 * difference.value:+.2f} ({100 * difference.low:+.2f} to {100 * difference.high:+.2f})",
                discordant=f"{paired.num_worse} / {paired.num_better}",
                limit=f"≥\N{NO-BREAK SPACE}{-100 * item_set.margin:g}" if is_read else "",
                verdict=verdict.outcome if is_read else "",
                passed=verdict.passed if is_read else None,
            )
        )
    return rows


def _surface(steps: Sequence[StepLatency]) -> tuple[list[int], list[tuple[int, list[str]]]]:
    """Context lengths, and for each number of tokens the times at them."""
    ms = {(step.num_tokens, step.context_tokens): figures(step.ms) for step in steps}
    contexts = sorted({step.context_tokens for step in steps})
    rows = [
        (tokens, [ms.get((tokens, context), "") for context in contexts])
        for tokens in sorted({step.num_tokens for step in steps})
    ]
    return contexts, rows
