"""Few combinations of many parameters in which every two values that go together meet at least once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations
from random import Random
from typing import TypeAlias

Choice: TypeAlias = dict[str, Hashable]

#: A pair counts as one that never goes together when none of so many random combinations with it is legal.
TRIES = 300
#: Of so many legal ones the one that meets the most new pairs is taken.
_COMPARED = 8


def covering(parameters: Mapping[str, Sequence[Hashable]], legal: Callable[[Choice], bool], seed: int = 0) -> list[Choice]:
    """Combinations of a value for each parameter, all legal, greedily chosen; the same for the same seed."""
    random = Random(seed)
    missing = {((a, x), (b, y)): None for a, b in combinations(parameters, 2) for x in parameters[a] for y in parameters[b]}
    if len(parameters) == 1:
        return [choice for (name, values) in parameters.items() for value in values if legal(choice := {name: value})]

    def new(choice: Choice) -> int:
        return sum(pair in missing for pair in combinations(choice.items(), 2))

    chosen: list[Choice] = []
    while missing:
        pair = next(iter(missing))
        found: list[Choice] = []
        for _ in range(TRIES):
            choice = {name: random.choice(values) for name, values in parameters.items()} | dict(pair)
            if legal(choice):
                found.append(choice)
                if len(found) == _COMPARED:
                    break
        if not found:
            del missing[pair]
            continue
        best = max(found, key=new)
        chosen.append(best)
        for met in combinations(best.items(), 2):
            missing.pop(met, None)
    return chosen
