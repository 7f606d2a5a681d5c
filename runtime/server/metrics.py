"""What /metrics shows. One registry per application; gauges are read from the engine when scraped."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from runtime.bench.bound import Peaks
from runtime.server.engine_counts import EngineCounts
from runtime.server.vllm_names import VllmNames
from runtime.server.work_meter import WorkMeter

_TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ITL_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
_QUEUE_BUCKETS_S = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_E2E_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class ServerMetrics:
    """Counters and histograms that the routes feed, and the engines' own counts beside them. Bundles come and go under it."""

    def __init__(self, model_name: str, peaks: Peaks | None = None) -> None:
        self.work = WorkMeter(peaks)
        self.engines = EngineCounts()
        self.registry = CollectorRegistry()
        self.registry.register(self.work)
        self.registry.register(_EngineCollector(self.engines))
        self.bundle = Gauge(
            "coldforge_bundle_info", "1 for the bundle that answers new requests.", ("digest",), registry=self.registry
        )
        self.moves = Counter(
            "coldforge_bundle_moves",
            "Moves of the name that is followed, by what came of them.",
            ("outcome",),
            registry=self.registry,
        )
        self.responses = Counter(
            "coldforge_http_responses", "HTTP responses, by route and status.", ("route", "status"), registry=self.registry
        )
        self.finished = Counter(
            "coldforge_requests", "Sequences that ended, by reason.", ("finish_reason",), registry=self.registry
        )
        self.rejected = Counter(
            "coldforge_rejected_requests", "Requests answered 429, by reason.", ("reason",), registry=self.registry
        )
        self.queue_wait = Histogram(
            "coldforge_queue_wait_seconds",
            "From a sequence's arrival in the queue to its first step.",
            buckets=_QUEUE_BUCKETS_S,
            registry=self.registry,
        )
        self.ttft = Histogram(
            "coldforge_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            buckets=_TTFT_BUCKETS_S,
            registry=self.registry,
        )
        self.itl = Histogram(
            "coldforge_inter_token_latency_seconds",
            "Between two tokens of a sequence; the first token is not counted.",
            buckets=_ITL_BUCKETS_S,
            registry=self.registry,
        )
        self.e2e = Histogram(
            "coldforge_e2e_request_latency_seconds",
            "From a request's arrival to a sequence's end.",
            buckets=_E2E_BUCKETS_S,
            registry=self.registry,
        )

        own = (self.finished, self.ttft, self.itl, self.e2e, self.queue_wait)
        self.registry.register(VllmNames(model_name, self.engines.total, own))

    def exposition(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self.registry)


class SequenceClock:
    """Times one sequence from its request's arrival."""

    def __init__(self, metrics: ServerMetrics, arrival_s: float) -> None:
        """`arrival_s` is by time.perf_counter."""
        self._metrics = metrics
        self._arrival_s = arrival_s
        self._last_token_s: float | None = None

    def token(self) -> None:
        now = time.perf_counter()
        if self._last_token_s is None:
            self._metrics.ttft.observe(now - self._arrival_s)
        else:
            self._metrics.itl.observe(now - self._last_token_s)
        self._last_token_s = now

    def end(self, reason: str) -> None:
        """`reason` is stop, length, abort or error."""
        self._metrics.finished.labels(reason).inc()
        self._metrics.e2e.observe(time.perf_counter() - self._arrival_s)


class _EngineCollector(Collector):
    def __init__(self, engines: EngineCounts) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        stats = self._engines.total()
        if stats is None:
            return
        for name, help_text, value in (
            (
                "bundles_loaded",
                "Bundles in memory: the one that answers new requests, and those that end theirs.",
                len(self._engines),
            ),
            ("num_requests_running", "Sequences in the running batch.", stats.num_running),
            ("num_requests_waiting", "Sequences in the queue.", stats.num_waiting),
            ("kv_blocks", "KV cache blocks there are.", stats.num_blocks),
            ("kv_blocks_usage_ratio", "Share of the KV cache blocks in use.", stats.kv_usage),
            ("max_num_seqs", "Sequences that may run at once.", stats.max_num_seqs),
        ):
            yield GaugeMetricFamily(f"coldforge_{name}", help_text, value=value)
        for name, help_text, value in (
            ("preemptions", "Sequences that gave their KV blocks back to be computed again.", stats.num_preemptions),
            ("prompt_tokens", "Prompt tokens of admitted sequences.", stats.num_prompt_tokens),
            ("cached_prompt_tokens", "Prompt tokens found in the prefix cache.", stats.num_cached_tokens),
            ("generated_tokens", "Tokens sampled.", stats.num_generated_tokens),
        ):
            yield CounterMetricFamily(f"coldforge_{name}", help_text, value=value)
