"""Layers as columns, kinds of layer group as rows: which scheme each has, and what each would cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from artifacts.precision import Scheme
from optimizer.formats.table import CODECS
from optimizer.report.markup import element
from optimizer.report.quantities import figures

HEAT_STEPS = 9


@dataclass(frozen=True)
class LegendEntry:
    scheme: str
    style: str
    num_groups: int


def scheme_style(name: str) -> str:
    """Grey is float, blue int8, violet fp8, greens symmetric and warm colours asymmetric int4; stripes are int8 activations,
    the other way int16 ones."""
    scheme = Scheme.parse(name)
    colour = CODECS[scheme.weights].colours[scheme.weight_only.name]
    angle = 135 if scheme.int8_activations else 45
    stripes = (
        f"repeating-linear-gradient({angle}deg,#ffffff66 0 2px,transparent 2px 6px)," if scheme.integer_activations else ""
    )
    return f"background:{stripes}{colour}" if stripes else f"background:{colour}"


def precision_legend(plan: Mapping[str, str]) -> list[LegendEntry]:
    """The schemes of a plan, most bits first, and how many groups have each."""
    counts = Counter(plan.values())
    ordered = sorted(counts, key=lambda name: (-Scheme.parse(name).bits_per_weight, name))
    return [LegendEntry(name, scheme_style(name), counts[name]) for name in ordered]


def precision_map(plan: Mapping[str, str]) -> Markup:
    """A grid of `plan`; groups outside the layers (embed, head) are rows of one wide cell."""
    cells = {group: element("i", style=scheme_style(scheme), title=f"{group}: {scheme}") for group, scheme in plan.items()}
    return _layer_grid(cells, f"Scheme of each of {len(plan)} layer groups")


def sensitivity_maps(sensitivities: Mapping[str, Mapping[str, float]], plan: Mapping[str, str]) -> list[tuple[str, Markup]]:
    """For each scheme a grid of KL, all on one logarithmic colour scale; an outlined cell has that scheme in `plan`."""
    low, high = sensitivity_range(sensitivities)
    schemes = sorted({scheme for costs in sensitivities.values() for scheme in costs}, key=_most_bits_first)
    maps = []
    for scheme in schemes:
        cells = {}
        for group, costs in sensitivities.items():
            if scheme in costs:
                step = _heat_step(costs[scheme], low, high)
                chosen = " on" if plan.get(group) == scheme else ""
                title = f"{group} at {scheme}: KL {figures(costs[scheme])}{', chosen' if chosen else ''}"
                cells[group] = element("i", _class=f"h{step}{chosen}", title=title)
        maps.append((scheme, _layer_grid(cells, f"KL of each layer group alone at {scheme}")))
    return maps


def sensitivity_range(sensitivities: Mapping[str, Mapping[str, float]]) -> tuple[float, float]:
    """The smallest positive and the largest KL."""
    costs = [cost for by_scheme in sensitivities.values() for cost in by_scheme.values() if cost > 0]
    return (min(costs), max(costs)) if costs else (1e-6, 1e-6)


def _most_bits_first(scheme: str) -> tuple[float, str]:
    return -Scheme.parse(scheme).bits_per_weight, scheme


def _heat_step(cost: float, low: float, high: float) -> int:
    if high <= low:
        return 0
    fraction = math.log(max(cost, low) / low) / math.log(high / low)
    return min(HEAT_STEPS - 1, int(fraction * HEAT_STEPS))


def _layer_grid(cells: Mapping[str, Markup], label: str) -> Markup:
    layers: dict[str, dict[int, Markup]] = {}
    outside: dict[str, Markup] = {}
    for group, cell in cells.items():
        parts = group.split(".")
        if len(parts) == 3:
            layers.setdefault(parts[2], {})[int(parts[1])] = cell
        else:
            outside[group] = cell
    num_layers = 1 + max((index for row in layers.values() for index in row), default=0)
    wide = f"grid-column:span {num_layers}"
    parts_of_grid: list[Markup] = []

    def add_row(name: str, row: list[Markup]) -> None:
        parts_of_grid.extend([element("b", name), *row])

    def add_outside(groups: Iterable[str]) -> None:
        for group in groups:
            add_row(group, [element("span", outside[group], style=wide)])

    add_outside(group for group in outside if group != "head")
    for kind, row in layers.items():
        add_row(kind, [row.get(index, element("i", _class="none")) for index in range(num_layers)])
    add_outside(group for group in outside if group == "head")
    every = next(step for step in (1, 5, 10, 20, 50, 1000) if num_layers / step <= 12)
    ticks = [element("u", str(index) if index % every == 0 else "") for index in range(num_layers)]
    add_row("layer", ticks)
    dense = " dense" if num_layers > 40 else ""
    style = f"--columns:{num_layers}"
    return element("div", *parts_of_grid, _class=f"map{dense}", style=style, role="img", aria_label=label)
