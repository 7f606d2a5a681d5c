"""The variables of the precision search: layers of one kind that tolerate quantization alike share a scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from artifacts.architecture import Architecture
from artifacts.errors import UserError
from artifacts.layer_groups import kind_of, plain_group
from artifacts.precision import Scheme

NUM_BANDS = 3
_NAMES = ("robust", "middling", "sensitive")


@dataclass(frozen=True)
class Band:
    """Layer groups of one kind, to which the search gives one scheme; `choices` are those that every one of them can take."""

    name: str
    groups: tuple[str, ...]
    choices: tuple[Scheme, ...]


def make_bands(
    architecture: Architecture, sensitivity: Mapping[str, float], offered: Mapping[str, Sequence[Scheme]]
) -> tuple[Band, ...]:
    """Split the groups of each kind into equal bands by `sensitivity`: KL of the group alone at the coarsest scheme.

    `offered` is what `fitting_schemes` left.

    A search over every layer on its own (121 variables for 30 layers) learns nothing in tens of trials; one over kinds alone
    misses that a few layers carry most of the loss.
    """
    shapes = architecture.linear_shapes()
    bands: list[Band] = []
    for kind in dict.fromkeys(kind_of(group) for group in shapes):
        groups = sorted((g for g in shapes if kind_of(g) == kind), key=lambda g: (sensitivity[g], g))
        # What hardly any token meets is one variable: text tells its layers apart as badly.
        num_bands = min(NUM_BANDS, len(groups)) if plain_group(kind) == kind else 1
        for index in range(num_bands):
            members = groups[index * len(groups) // num_bands : (index + 1) * len(groups) // num_bands]
            name = kind if num_bands == 1 else f"{kind}.{_NAMES[index]}"
            bands.append(Band(name, tuple(sorted(members)), tuple(offered[kind])))
    return tuple(bands)


def fitting_schemes(
    shapes: Mapping[str, tuple[int, int]], offered: Mapping[str, Sequence[Scheme]]
) -> dict[str, tuple[Scheme, ...]]:
    """Of the schemes offered to each kind, those that all its layer groups can take. UserError where none is left."""
    fitting: dict[str, tuple[Scheme, ...]] = {}
    for kind in dict.fromkeys(map(kind_of, shapes)):
        own = {shape for group, shape in shapes.items() if kind_of(group) == kind}
        fitting[kind] = tuple(s for s in offered[kind] if all(s.refusal(*shape) is None for shape in own))
        if not fitting[kind]:
            shape = min(own)
            reasons = "; ".join(f"{s.name}: {s.refusal(*shape)}" for s in offered[kind])
            raise UserError(f"no scheme offered for {kind!r} fits its shape {shape} ({reasons}); offer another one")
    return fitting


def plan_of(bands: Sequence[Band], choice: Mapping[str, str]) -> dict[str, Scheme]:
    """Layer group -> scheme, from band -> scheme name."""
    return {group: Scheme.parse(choice[band.name]) for band in bands for group in band.groups}
