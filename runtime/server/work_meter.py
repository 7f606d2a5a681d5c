"""How near the machine's peaks the steps of about the last ten seconds came, and which peak they were nearer to."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from runtime.bench.bound import Peaks
from runtime.step_cost import Cost

_MEMORY_S = 10.0
#: Less than that of steps in the memory says nothing about now.
_LEAST_S = 1e-3
_NOTHING = Cost(0.0, 0.0, 0.0)


class WorkMeter(Collector):
    """Written by the engines' threads, read when scraped. What is not known is not shown: shares without `peaks`, costs until
    `knows_costs` is set.

    Rates are of the time in steps; how much of all time that is, the rate of `coldforge_step_seconds_total` says.
    """

    def __init__(self, peaks: Peaks | None) -> None:
        self.knows_costs = False
        self._peaks = peaks
        self._lock = threading.Lock()
        self._num_steps = 0
        self._step_s = 0.0
        self._total = _NOTHING
        self._seen_s: float | None = None
        self._recent = (0.0, _NOTHING)

    def observe(self, now_s: float, step_s: float, cost: Cost = _NOTHING) -> None:
        """A step of `cost` that took `step_s` ended at `now_s`, by one clock."""
        with self._lock:
            kept = 0.0 if self._seen_s is None else math.exp(-max(0.0, now_s - self._seen_s) / _MEMORY_S)
            recent_s, recent = self._recent
            self._seen_s = now_s
            self._num_steps += 1
            self._step_s += step_s
            self._total = _sum(self._total, 1.0, cost)
            self._recent = recent_s * kept + step_s, _sum(recent, kept, cost)

    def collect(self) -> Iterator[Metric]:
        for name, help_text, value in (
            ("steps", "Steps of the model.", float(self._num_steps)),
            ("step_seconds", "Time in steps.", self._step_s),
        ):
            yield CounterMetricFamily(f"coldforge_{name}", help_text, value=value)
        if not self.knows_costs:
            return
        total = self._total
        yield CounterMetricFamily(
            "coldforge_step_bytes", "Bytes that steps had to move: weights, keys and values.", value=total.num_bytes
        )
        operations = CounterMetricFamily(
            "coldforge_step_operations", "Operations of steps, a multiply-add being two.", labels=["kind"]
        )
        operations.add_metric(["float"], total.float_flops)
        operations.add_metric(["int8"], total.int8_flops)
        yield operations
        yield from self._now()

    def _now(self) -> Iterator[Metric]:
        step_s, cost = self._recent
        if step_s < _LEAST_S:
            return
        yield GaugeMetricFamily(
            "coldforge_memory_bytes_per_second", "Bytes a second while steps ran, of late.", value=cost.num_bytes / step_s
        )
        flops = cost.float_flops + cost.int8_flops
        yield GaugeMetricFamily(
            "coldforge_operations_per_second", "Operations a second while steps ran, of late.", value=flops / step_s
        )
        if self._peaks is None:
            return
        # The shares of the steps' time that they would have taken at the peaks, if the other had cost nothing.
        memory = cost.num_bytes / (self._peaks.memory_gbps * 1e9) / step_s
        compute = (
            cost.float_flops / (self._peaks.float_gflops * 1e9) + cost.int8_flops / (self._peaks.int8_gops * 1e9)
        ) / step_s
        yield GaugeMetricFamily("coldforge_memory_peak_ratio", "Bytes/s as a share of the machine's peak.", value=memory)
        yield GaugeMetricFamily(
            "coldforge_compute_peak_ratio", "Operations/s as a share of the machine's peaks.", value=compute
        )
        bound = GaugeMetricFamily("coldforge_bound", "1 for what bounds the steps of late: memory or compute.", labels=["by"])
        bound.add_metric(["memory"], float(memory >= compute))
        bound.add_metric(["compute"], float(memory < compute))
        yield bound


def _sum(sum_so_far: Cost, kept: float, cost: Cost) -> Cost:
    return Cost(
        sum_so_far.num_bytes * kept + cost.num_bytes,
        sum_so_far.float_flops * kept + cost.float_flops,
        sum_so_far.int8_flops * kept + cost.int8_flops,
    )
