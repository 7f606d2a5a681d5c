"""vLLM's names for what is measured here anyway: dashboards, autoscalers and the Gateway API's endpoint picker know those.

The picker reads `vllm:num_requests_waiting`, `vllm:num_requests_running`, `vllm:kv_cache_usage_perc` and, of
`vllm:cache_config_info`, the labels `block_size` and `num_gpu_blocks`. Units and meanings are vLLM's (V1): usage is a share of
1, the prefix cache is counted in tokens. Labels are vLLM's too: the model's name, and the number of the only engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from runtime.engine_core import EngineStats

#: of a histogram or counter of ours: vLLM's name, and what its labels are called there
_ALIASES = {
    "coldforge_time_to_first_token_seconds": ("vllm:time_to_first_token_seconds", {}),
    "coldforge_inter_token_latency_seconds": ("vllm:inter_token_latency_seconds", {}),
    "coldforge_e2e_request_latency_seconds": ("vllm:e2e_request_latency_seconds", {}),
    "coldforge_queue_wait_seconds": ("vllm:request_queue_time_seconds", {}),
    "coldforge_requests": ("vllm:request_success", {"finish_reason": "finished_reason"}),
}


class VllmNames(Collector):
    """The engine's counts, and the collectors `ours`, by vLLM's names."""

    def __init__(self, model_name: str, engine_stats: Callable[[], EngineStats | None], ours: tuple[Collector, ...]) -> None:
        self._labels = {"engine": "0", "model_name": model_name}
        self._engine_stats = engine_stats
        self._ours = ours

    def collect(self) -> Iterator[Metric]:
        stats, labels = self._engine_stats(), self._labels
        if stats is None:
            return
        gauges = (
            ("num_requests_running", "Sequences in the running batch.", stats.num_running),
            ("num_requests_waiting", "Sequences in the queue.", stats.num_waiting),
            ("kv_cache_usage_perc", "Share of the KV cache blocks in use; 1 is all.", stats.kv_usage),
        )
        for name, help_text, value in gauges:
            gauge = GaugeMetricFamily(f"vllm:{name}", help_text, labels=list(labels))
            gauge.add_metric(tuple(labels.values()), value)
            yield gauge
        counters = (
            ("num_preemptions", "Sequences that gave their KV blocks back.", stats.num_preemptions),
            ("prompt_tokens", "Prompt tokens of admitted sequences.", stats.num_prompt_tokens),
            ("generation_tokens", "Tokens sampled.", stats.num_generated_tokens),
            ("prefix_cache_queries", "Prompt tokens looked for in the prefix cache.", stats.num_prompt_tokens),
            ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", stats.num_cached_tokens),
        )
        for name, help_text, value in counters:
            counter = CounterMetricFamily(f"vllm:{name}", help_text, labels=list(labels))
            counter.add_metric(tuple(labels.values()), value)
            yield counter
        sizes = {"block_size": str(stats.block_size), "num_gpu_blocks": str(stats.num_blocks), "engine": "0"}
        config = GaugeMetricFamily("vllm:cache_config_info", "The KV cache's size; always 1.", labels=list(sizes))
        config.add_metric(tuple(sizes.values()), 1)
        yield config
        for collector in self._ours:
            for metric in collector.collect():
                yield self._renamed(metric)

    def _renamed(self, metric: Metric) -> Metric:
        name, label_names = _ALIASES[metric.name]
        alias = Metric(name, metric.documentation, metric.type)
        for sample in metric.samples:
            if not sample.name.endswith("_created"):
                own = {label_names.get(label, label): value for label, value in sample.labels.items()}
                alias.add_sample(sample.name.replace(metric.name, name, 1), self._labels | own, sample.value)
        return alias
