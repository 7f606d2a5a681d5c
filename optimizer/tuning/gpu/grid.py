"""The points of a search space for one entry point, as arrays: what a time model ranks at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from kernels.gpu.tuning import Point
from search_spaces.schema import KernelSpace


@dataclass(frozen=True)
class PointGrid:
    """Every combination of `values`; the first parameter varies slowest, so an index is a rank in the space's own order."""

    parameters: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, offered: KernelSpace, parameters: Mapping[str, tuple[int, ...]], default: Point) -> PointGrid:
        """The values that `offered` has for an entry point of these `parameters`; the default's where it has none.

        One space serves all entry points of an op: values that are for others of them are left out here.
        """
        values = {
            name: tuple(v for v in offered.constants.get(name, ()) if v in known) or (default[name],)
            for name, known in parameters.items()
        }
        # The order of the file is that of preference, for parameters as for values.
        first = [name for name in offered.constants if name in values]
        return cls(tuple((name, values[name]) for name in dict.fromkeys((*first, *values))))

    def only(self, wanted: Callable[[str], bool]) -> PointGrid:
        """The grid of those parameters alone."""
        return PointGrid(tuple(parameter for parameter in self.parameters if wanted(parameter[0])))

    def led_by(self, point: Point) -> PointGrid:
        """The same points, the value of `point` first for each parameter that offers it."""
        return PointGrid(
            tuple((name, tuple(sorted(values, key=lambda value: value != point[name]))) for name, values in self.parameters)
        )

    def __len__(self) -> int:
        return prod(len(values) for _, values in self.parameters)

    def point(self, index: int) -> dict[str, int]:
        return {name: int(column[index]) for name, column in self.columns.items()}

    def index(self, point: Point) -> int:
        """The inverse of `point`."""
        index = 0
        for name, values in self.parameters:
            index = index * len(values) + values.index(point[name])
        return index

    @cached_property
    def columns(self) -> Mapping[str, NDArray[np.int64]]:
        """Parameter -> its value at every point."""
        if not self.parameters:
            return {}
        arrays = np.meshgrid(*(np.array(values, dtype=np.int64) for _, values in self.parameters), indexing="ij")
        return {name: array.reshape(-1) for (name, _), array in zip(self.parameters, arrays, strict=True)}
