"""Where a series of nights moved to another level, by Apache Otava.

Otava splits the series where the two sides differ most (E-divisive means, Matteson and James 2014), keeps the splits that a t
test finds significant, and merges the others (Hunter, Fleming et al. 2023). There is no threshold on the size of a change.
Decision 0053 has its error rates on recorded noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from artifacts.errors import UserError

MAX_P_VALUE = 0.001
"""Otava's own default."""
_WINDOW = 50
"""Nights that are looked at together; Otava's own default."""


@dataclass(frozen=True)
class ChangePoint:
    """`index` is of the first night at the new level; `before` and `after` are the levels, as factors of the reference."""

    index: int
    before: float
    after: float
    p_value: float

    @property
    def change(self) -> float:
        """How much faster it is after than before: -0.03 is 3 % slower."""
        return self.after / self.before - 1


def change_points(log_ratios: Sequence[float]) -> tuple[ChangePoint, ...]:
    """Of a series of log ratios, one for each night. UserError where Otava is not installed."""
    try:
        from otava.analysis import compute_change_points
    except ImportError as error:
        raise UserError(
            "change points are found by Apache Otava, which must be installed, and is not: "
            "pip install 'coldforge[history]' in an environment of its own, or pip install --no-deps apache-otava scipy here"
        ) from error
    found, _ = compute_change_points(list(log_ratios), window_len=_WINDOW, max_pvalue=MAX_P_VALUE)
    return tuple(
        ChangePoint(int(one.index), math.exp(one.stats.mean_1), math.exp(one.stats.mean_2), float(one.stats.pvalue))
        for one in found
    )
