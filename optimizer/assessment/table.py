"""An assessment as people read it: a row for each text and set, and below it what was not passed."""

from __future__ import annotations

from rich.table import Table

from optimizer.assessment.assess import Assessment, Finding

_STYLES = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def table_of(assessment: Assessment) -> Table:
    """Shares and perplexities of both, the difference with its 95 % interval, the verdict."""
    columns = ["set", "metric", "items", "this"]
    if assessment.against is not None:
        columns += ["against", "difference (95 %)", "verdict"]
    table = Table(*columns, title=assessment.candidate, title_justify="left")
    for finding in assessment.findings:
        table.add_row(*_row(finding))
    return table


def shortfalls(assessment: Assessment) -> list[str]:
    """A line for each condition that was not met, with what to do about it."""
    return [
        f"{finding.name}: {line}"
        for finding in assessment.findings
        if finding.verdict is not None
        for line in finding.verdict.shortfall().splitlines()
    ]


def _row(finding: Finding) -> list[str]:
    def value(number: float) -> str:
        return f"{number:.3f}" if finding.metric == "perplexity" else f"{number:.2%}"

    row = [finding.name, finding.metric, str(finding.num_items), value(finding.candidate)]
    if finding.against is None or finding.difference is None or finding.verdict is None:
        return row
    difference, outcome = finding.difference, finding.verdict.outcome
    interval = f"{difference.value:+.2%} ({difference.low:+.2%} to {difference.high:+.2%})"
    return [*row, value(finding.against), interval, f"[{_STYLES[outcome]}]{outcome}[/]"]
