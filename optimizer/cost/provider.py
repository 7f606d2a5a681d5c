"""What a step of the model costs on the target, under any precision plan."""

from __future__ import annotations

from typing import Protocol

from artifacts.precision import Plan, Scheme


class CostProvider(Protocol):
    """Latency of a plan: measured where the target is at hand, analytical where it is not."""

    def latency_ms(self, plan: Plan) -> float:
        """Milliseconds per output token of the workload, as one request sees them, its prompt included."""
        ...

    def group_ms(self, group: str, scheme: Scheme) -> float:
        """The part of `latency_ms` that one layer group adds under `scheme`."""
        ...
