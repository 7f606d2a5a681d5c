"""What a step of the model costs on the target, under any precision plan."""

from __future__ import annotations

from typing import Protocol

from artifacts.precision import KvDtype, Plan, Scheme

#: what of a layer the KV cache's dtype changes the time of, as labels of calls end
OF_KV_CACHE = ("rope", "attention")


class CostProvider(Protocol):
    """Latency of a plan: measured where the target is at hand, analytical where it is not."""

    def latency_ms(self, plan: Plan, kv_dtype: KvDtype | None = None) -> float:
        """Milliseconds per output token of the workload, as one request sees them, its prompt included.

        Over the KV cache that costs were asked for first, if `kv_dtype` is None.
        """
        ...

    def group_ms(self, group: str, scheme: Scheme) -> float:
        """The part of `latency_ms` that one layer group adds under `scheme`."""
        ...

    def kv_ms(self, kv_dtype: KvDtype) -> float:
        """The part of `latency_ms` that attention, its cache written and read, adds over a KV cache of `kv_dtype`."""
        ...
