"""What tuning decides for one kind of call, as a record of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class StaticSummary:
    """The compiled main kernel of a call, in short: what `StaticRecord` says of it that decided."""

    registers: int
    spills: int
    shared_bytes: int
    blocks_per_sm: int
    occupancy: float
    """Resident warps of an SM, as a fraction of the most."""
    issue_bound_ratio: float | None
    """The issue bound over the device's bandwidth; None where no loop streams."""
    uses_wgmma: bool


@dataclass(frozen=True)
class TunedCall:
    """The point that calls of one `point_key` run at. `time_us` is modelled unless it was `measured`.

    `num_candidates` is how many points of the space were ranked; `margin` by how much the next best of
    those that were compiled is slower, as a fraction: negative where a near-tie went to the point that the space lists first.
    """

    key: str
    symbol: str
    point: Mapping[str, int]
    time_us: float
    measured: bool
    num_candidates: int
    margin: float
    record: StaticSummary

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        return cls(**{**fields, "record": StaticSummary(**fields["record"])})
