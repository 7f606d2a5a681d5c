"""The plots, as SVG whose positions are percentages: they are as wide as the page, and their text keeps its size.

Hovering over a point names it; there is no script.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from markupsafe import Markup

from optimizer.evaluation import Check
from optimizer.report.data import ReportData, StepLatency, TrialPoint
from optimizer.report.markup import element, percent
from optimizer.report.quantities import figures, tick_label
from optimizer.report.scale import Scale

_LINE_COLOURS = 6
_LABEL_ROOM = 0.4
"""The part of a narrow page's plot that the chosen trial's label takes."""
_MOST_MEASURED_TICKS = 10
"""Ticks at the measured values where there are no more than fit a narrow page."""


def pareto_chart(data: ReportData) -> Markup:
    """Latency against KL of every trial, the front, the chosen trial, and the gate's line where there is one."""
    limit = kl_limit(data)
    positive = [trial.kl for trial in data.trials if trial.kl > 0]
    least_kl = min(positive, default=1e-6)
    x = Scale.around([trial.latency_ms for trial in data.trials])
    y = Scale.around([*(max(trial.kl, least_kl) for trial in data.trials), *([limit] if limit else [])])
    front = sorted((trial for trial in data.trials if trial.on_front), key=lambda trial: (trial.latency_ms, trial.number))
    parts = [axes(x, y, "latency, ms per output token", "KL to the baseline, nats per token")]
    if limit:
        height = percent(1 - y.position(limit))
        parts.append(element("line", _class="gate", x1="0", x2="100%", y1=height, y2=height))
        parts.append(element("text", f"gate {limit:g}", _class="gate", x="100%", y=height, dy=-6, text_anchor="end"))
    for left, right in pairwise(front):
        x1, x2 = percent(x.position(left.latency_ms)), percent(x.position(right.latency_ms))
        y1, y2 = percent(1 - y.position(left.kl)), percent(1 - y.position(right.kl))
        parts.append(element("line", _class="front", x1=x1, x2=x2, y1=y1, y2=y1))
        parts.append(element("line", _class="front", x1=x2, x2=x2, y1=y1, y2=y2))
    # The interesting ones are drawn last, on top.
    for trial in sorted(data.trials, key=lambda trial: (trial.number == data.chosen_trial, trial.on_front, trial.feasible)):
        parts.append(_trial_point(trial, x, y, is_chosen=trial.number == data.chosen_trial))
    return plot("Latency against KL of every trial", parts)


def latency_chart(step_latencies: Sequence[StepLatency]) -> Markup:
    """Time of a step against its tokens, a line for each context length."""
    x = Scale.around([step.num_tokens for step in step_latencies], margin=0.02)
    y = Scale.around([step.ms for step in step_latencies])
    measured = sorted({float(step.num_tokens) for step in step_latencies})
    x_ticks = _labelled(measured) if len(measured) <= _MOST_MEASURED_TICKS else None
    parts = [axes(x, y, "tokens in the step", "ms per step", x_ticks)]
    for index, context in enumerate(sorted({step.context_tokens for step in step_latencies})):
        line = sorted((step.num_tokens, step.ms) for step in step_latencies if step.context_tokens == context)
        colour = latency_colour(index)
        places = [(percent(x.position(tokens)), percent(1 - y.position(ms))) for tokens, ms in line]
        for (x1, y1), (x2, y2) in pairwise(places):
            parts.append(element("line", _class=f"series {colour}", x1=x1, y1=y1, x2=x2, y2=y2))
        for (cx, cy), (tokens, ms) in zip(places, line, strict=True):
            title = element("title", f"{tokens} tokens, context {context}: {figures(ms)} ms")
            parts.append(element("circle", title, _class=f"series {colour}", cx=cx, cy=cy, r=4))
    return plot("Time of a step against its tokens", parts)


def latency_colour(index: int) -> str:
    """The class of the `index`-th context's line, for the legend."""
    return f"line-{index % _LINE_COLOURS}"


def interval_bar(value: float, low: float, high: float, limit: float, *, is_ceiling: bool) -> Markup:
    """An interval, its value and the limit that its worse end must meet, on an axis from zero (or, for a floor, up to one)."""
    ends = (min(0.0, low), 1.15 * max(high, limit)) if is_ceiling else (min(low, limit) - 0.15 * (1 - min(low, limit)), 1.0)
    scale = Scale(ends[0], ends[1] if ends[1] > ends[0] else ends[0] + 1.0, False)
    at = scale.position
    parts = (
        element("rect", _class="track", x="0", y=8, width="100%", height=4, rx=2),
        element("rect", _class="range", x=percent(at(low)), y=6, width=percent(at(high) - at(low)), height=8, rx=2),
        element("circle", _class="value", cx=percent(at(value)), cy=10, r=3.5),
        element("line", _class="limit", x1=percent(at(limit)), x2=percent(at(limit)), y1=1, y2=19),
    )
    return element("svg", *parts, _class="interval", height=20, aria_hidden="true")


def kl_limit(data: ReportData) -> float | None:
    """The gate's limit on KL, where it sets one."""
    checks = (check for accuracy in data.accuracy for check in accuracy.verdict.checks)
    return next((check.limit for check in checks if isinstance(check, Check) and check.metric == "kl"), None)


def _trial_point(trial: TrialPoint, x: Scale, y: Scale, *, is_chosen: bool) -> Markup:
    state = "chosen" if is_chosen else "on-front" if trial.on_front else "feasible" if trial.feasible else "refused"
    title = element(
        "title",
        f"trial {trial.number}: {figures(trial.latency_ms)} ms, KL {figures(trial.kl)}, "
        f"{'within' if trial.feasible else 'outside'} the gate\n{trial.summary}",
    )
    cx, cy = percent(x.position(trial.latency_ms)), percent(1 - y.position(trial.kl))
    radius = {"chosen": 7, "on-front": 5}.get(state, 4)
    point = element("circle", title, _class=f"trial {state}", cx=cx, cy=cy, r=radius)
    if not is_chosen:
        return point
    ring = element("circle", _class="ring", cx=cx, cy=cy, r=12)
    # No trial lies below and left of the front, so the label is safe there; at the left edge it goes right under.
    dx, anchor = (-12, "end") if x.position(trial.latency_ms) > _LABEL_ROOM else (-8, "start")
    text = f"chosen, trial {trial.number}"
    label = element("text", text, _class="chosen", x=cx, y=cy, dx=dx, dy=28, text_anchor=anchor)
    return ring + point + label


def axes(x: Scale, y: Scale, x_name: str, y_name: str, x_ticks: Mapping[float, str] | None = None) -> Markup:
    """Grid, ticks and names of both axes; `x_ticks` are places and their labels, by default round numbers."""
    parts = []
    for tick in y.ticks():
        height = percent(1 - y.position(tick))
        parts.append(element("line", _class="grid", x1="0", x2="100%", y1=height, y2=height))
        parts.append(element("text", tick_label(tick), _class="tick", x="0", y=height, dx=-10, dy=4, text_anchor="end"))
    for tick, label in (_labelled(x.ticks()) if x_ticks is None else x_ticks).items():
        place = percent(x.position(tick))
        parts.append(element("line", _class="grid", x1=place, x2=place, y1="0", y2="100%"))
        parts.append(element("text", label, _class="tick", x=place, y="100%", dy=20, text_anchor="middle"))
    x_name, y_name = (f"{name} (log)" if scale.is_log else name for name, scale in ((x_name, x), (y_name, y)))
    parts.append(element("text", x_name, _class="axis", x="100%", y="100%", dy=42, text_anchor="end"))
    parts.append(element("text", y_name, _class="axis", x="0", y="0", dx=-52, dy=-16))
    return Markup("").join(parts)


def _labelled(ticks: Iterable[float]) -> dict[float, str]:
    return {tick: tick_label(tick) for tick in ticks}


def plot(label: str, parts: Sequence[Markup]) -> Markup:
    """What was drawn, as wide as the page; `label` is for readers who do not see it."""
    return element("div", element("svg", *parts, role="img", aria_label=label), _class="plot")
