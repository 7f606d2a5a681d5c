"""A series as a plot: its nights, its levels, where it moved and what changed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from optimizer.history.series import Move, Point, Series, changed_between
from optimizer.report.charts import axes, plot
from optimizer.report.markup import element, percent
from optimizer.report.scale import Scale

_MOST_DATES = 6


def series_chart(series: Series, moves: Sequence[Move]) -> Markup:
    """`moves` are those of the series. Each is a line that leads to the place named #`anchor` of it."""
    points = series.points
    x = Scale.around([float(index) for index in range(len(points))], margin=0.03)
    y = Scale.around([value for point in points for value in (point.low, point.high)])
    parts = [axes(x, y, "nights", "x the reference", _dates(points))]
    for index, (before, after) in enumerate(pairwise(points), start=1):
        if changed := changed_between(before.night, after.night):
            title = element("title", "\n".join(changed))
            place = percent(x.position(index - 0.5))
            parts.append(element("line", title, _class="changed", x1=place, x2=place, y1="0", y2="100%"))
    for move in moves:
        parts.append(_moved(move, x))
    for begin, end, level in _levels(series, moves):
        height = percent(1 - y.position(level))
        x1, x2 = percent(x.position(begin - 0.5)), percent(x.position(end - 0.5))
        parts.append(element("line", _class="level", x1=x1, x2=x2, y1=height, y2=height))
    for index, point in enumerate(points):
        parts.append(_night(point, percent(x.position(index)), y))
    return plot(f"Speed over the reference, night by night: {series.title}", parts)


def anchor(move: Move) -> str:
    """The name of the place that describes a move."""
    return f"move-{move.series.phase}-{move.series.reference[:12]}-{move.change_point.index}"


def _night(point: Point, place: str, y: Scale) -> Markup:
    night = point.night
    title = element(
        "title",
        f"{night.time}: {point.ratio:.4f} x, half of its blocks from {point.low:.4f} to {point.high:.4f}\n"
        f"{night.verdict}, bundle {night.measured[:12]}",
    )
    low, high = percent(1 - y.position(point.low)), percent(1 - y.position(point.high))
    spread = element("line", _class="blocks", x1=place, x2=place, y1=low, y2=high)
    state = "chosen" if night.verdict == "promoted" else "on-front"
    return spread + element("circle", title, _class=f"trial {state}", cx=place, cy=percent(1 - y.position(point.ratio)), r=4)


def _moved(move: Move, x: Scale) -> Markup:
    place = percent(x.position(move.change_point.index - 0.5))
    line = element("line", _class="moved", x1=place, x2=place, y1="0", y2="100%")
    label = element("text", f"{100 * move.change_point.change:+.1f} %", _class="moved", x=place, y="0", dx=4, dy=12)
    return element("a", line, label, href=f"#{anchor(move)}")


def _levels(series: Series, moves: Sequence[Move]) -> list[tuple[int, int, float]]:
    """First night, the night after the last one, and the level of each part between moves."""
    if not moves:
        return []
    bounds = [0, *(move.change_point.index for move in moves), len(series.points)]
    levels = [moves[0].change_point.before, *(move.change_point.after for move in moves)]
    return [(begin, end, level) for (begin, end), level in zip(pairwise(bounds), levels, strict=True)]


def _dates(points: Sequence[Point]) -> dict[float, str]:
    step = -(-len(points) // _MOST_DATES)
    return {float(index): points[index].night.time[:10] for index in range(0, len(points), step)}
