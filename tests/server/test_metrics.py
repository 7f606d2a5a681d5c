"""/metrics over HTTP: vLLM's names, how near the machine's peaks the steps come, and the dashboard that reads it all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from artifacts.architecture import Architecture
from artifacts.errors import UserError
from runtime.bench.bound import Peaks, decode_bound
from runtime.bench.peaks_file import read_peaks
from runtime.server.work_meter import WorkMeter
from runtime.step_cost import StepCost
from runtime.step_work import StepWork
from tests.server.conftest import limits

DASHBOARD = Path(__file__).parents[2] / "examples" / "grafana" / "coldforge.json"
BODY = {"model": "tiny", "prompt": "a b c d e f g h i j k l m n", "temperature": 0, "max_tokens": 10}
COST = StepCost(1e6, 10, 100, 2e6, 1e6, 50, 3e6, 0)
PEAKS = Peaks(memory_gbps=10, float_gflops=100, int8_gops=400)


@pytest.fixture(scope="module")
def used(run_server: Any) -> Iterator[Any]:
    """A server that has answered, and refused, some."""
    with run_server(step_cost=COST, peaks=PEAKS, max_queue=1, runner_options=limits(max_num_seqs=1)) as served:
        for _ in range(2):
            served.client().completions.create(**BODY)
        served.client().completions.create(**BODY | {"n": 2})
        httpx.get(f"{served.url}/nowhere")
        served.server.service.metrics.rejected.labels("queue_full").inc()
        yield served


def samples(served: Any) -> dict[str, list[tuple[dict[str, str], float]]]:
    """All samples by name, as Prometheus' own parser reads them."""
    text = httpx.get(f"{served.url}/metrics").text
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def one(served: Any, name: str) -> tuple[dict[str, str], float]:
    (sample,) = samples(served)[name]
    return sample


def test_what_an_endpoint_picker_reads(used: Any) -> None:
    for name in ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"):
        assert one(used, name) == ({"engine": "0", "model_name": "tiny"}, 0)
    labels, value = one(used, "vllm:cache_config_info")
    assert value == 1 and labels["block_size"] == "16" and labels["num_gpu_blocks"] == "64"


def test_the_gauges_follow_the_engine(run_server: Any, wait: Any) -> None:
    with run_server(runner_options=limits(max_num_seqs=1) | {"step_time_s": 0.05}) as served:
        stream = iter(served.client().completions.create(stream=True, **BODY | {"max_tokens": 100, "n": 3}))
        next(stream)
        assert one(served, "vllm:num_requests_running")[1] == 1
        assert one(served, "vllm:num_requests_waiting")[1] == 2
        found = samples(served)  # one scrape: a step between two may take a block
        (theirs,), (ours,) = found["vllm:kv_cache_usage_perc"], found["coldforge_kv_blocks_usage_ratio"]
        assert theirs[1] == ours[1] > 0
        served.runner.step_time_s = 0.0
        list(stream)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("vllm:prompt_tokens_total", "coldforge_prompt_tokens_total"),
        ("vllm:generation_tokens_total", "coldforge_generated_tokens_total"),
        ("vllm:num_preemptions_total", "coldforge_preemptions_total"),
        ("vllm:prefix_cache_queries_total", "coldforge_prompt_tokens_total"),
        ("vllm:prefix_cache_hits_total", "coldforge_cached_prompt_tokens_total"),
        ("vllm:time_to_first_token_seconds_count", "coldforge_time_to_first_token_seconds_count"),
        ("vllm:time_to_first_token_seconds_sum", "coldforge_time_to_first_token_seconds_sum"),
        ("vllm:inter_token_latency_seconds_count", "coldforge_inter_token_latency_seconds_count"),
        ("vllm:e2e_request_latency_seconds_count", "coldforge_e2e_request_latency_seconds_count"),
        ("vllm:request_queue_time_seconds_count", "coldforge_queue_wait_seconds_count"),
    ],
)
def test_a_figure_is_the_same_by_both_names(used: Any, theirs: str, ours: str) -> None:
    labels, value = one(used, theirs)
    assert labels == {"engine": "0", "model_name": "tiny"}
    assert value == one(used, ours)[1]
    assert value > 0 or "preemptions" in ours


def test_histograms_have_all_their_buckets(used: Any) -> None:
    found = samples(used)
    theirs, ours = found["vllm:time_to_first_token_seconds_bucket"], found["coldforge_time_to_first_token_seconds_bucket"]
    assert [(labels["le"], value) for labels, value in theirs] == [(labels["le"], value) for labels, value in ours]
    (labels, value) = found["vllm:request_success_total"][0]
    assert labels["finished_reason"] == "length" and value == 4


def test_every_query_of_the_dashboard_is_answered(used: Any) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [variable["query"] for variable in dashboard["templating"]["list"]]
    names = {name for query in queries for name in re.findall(r"coldforge_\w+", query)}
    found = samples(used)
    assert len(names) >= 20
    assert not names - found.keys()
    for query in queries:
        for labels in re.findall(r"sum by \(([\w, ]+)\)", query):
            metric = found[re.findall(r"coldforge_\w+", query)[0]]
            assert set(labels.split(", ")) <= metric[0][0].keys(), query
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in dashboard["panels"]]
    assert len(set(places)) == len(places), "no panel covers another"


def test_what_is_not_known_is_not_shown(run_server: Any) -> None:
    for options, absent, shown in (
        ({}, "coldforge_step_bytes_total", "coldforge_steps_total"),
        ({"step_cost": COST}, "coldforge_memory_peak_ratio", "coldforge_memory_bytes_per_second"),
    ):
        with run_server(runner_options={"step_time_s": 0.002}, **options) as served:
            served.client().completions.create(**BODY)
            found = samples(served)
            assert absent not in found and shown in found
            assert "coldforge_bound" not in found


def meter_of_costs() -> WorkMeter:
    meter = WorkMeter(PEAKS)
    meter.knows_costs = True
    return meter


def metered(work: StepWork, step_s: float, num_steps: int = 100) -> dict[str, float]:
    """A meter's gauges after so many equal steps."""
    meter = meter_of_costs()
    for i in range(num_steps):
        meter.observe(i * step_s, step_s, COST.cost(work))
    return {"".join((s.name, *s.labels.values())): s.value for metric in meter.collect() for s in metric.samples}


def test_shares_of_the_peaks_and_what_bounds() -> None:
    decoding = metered(StepWork(4, 4000, 4000, 4), 0.001)
    num_bytes = 1e6 + 4 * 10 + 4000 * 100
    float_flops, int8_flops = 4 * 2e6 + 4000 * 50 + 4 * 3e6, 4 * 1e6
    assert decoding["coldforge_memory_bytes_per_second"] == pytest.approx(num_bytes / 0.001)
    assert decoding["coldforge_operations_per_second"] == pytest.approx((float_flops + int8_flops) / 0.001)
    assert decoding["coldforge_memory_peak_ratio"] == pytest.approx(num_bytes / 0.001 / 10e9)
    assert decoding["coldforge_compute_peak_ratio"] == pytest.approx((float_flops / 100e9 + int8_flops / 400e9) / 0.001)
    assert decoding["coldforge_step_bytes_total"] == pytest.approx(100 * num_bytes)
    assert (decoding["coldforge_boundmemory"], decoding["coldforge_boundcompute"]) == (0, 1)
    alone = metered(StepWork(1, 100, 100, 1), 0.001)
    assert (alone["coldforge_boundmemory"], alone["coldforge_boundcompute"]) == (1, 0)


def test_what_is_long_past_counts_little() -> None:
    meter = meter_of_costs()
    for i in range(100):
        meter.observe(i * 0.1, 0.1, COST.cost(StepWork(256, 256, 30_000, 1)))
    for i in range(100):
        meter.observe(100 + i * 0.1, 0.001, COST.cost(StepWork(1, 100, 100, 1)))
    (bound,) = (metric for metric in meter.collect() if metric.name == "coldforge_bound")
    assert {sample.labels["by"]: sample.value for sample in bound.samples} == {"memory": 1, "compute": 0}


ARCHITECTURE = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_layers": 3,
    "family": "llama",
    "num_q_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "max_position": 512,
    "rms_norm_eps": 1e-5,
}


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("scheme", ["bf16", "int8-a8", "int8-a16", "int4-g32-sym"])
def test_a_steps_cost_is_what_bench_counts(tie: bool, scheme: str) -> None:
    """Of eight sequences that decode with 200 tokens behind them."""
    architecture = Architecture.model_validate(ARCHITECTURE | {"tie_embeddings": tie, "rope": {"theta": 1e4}})
    groups = dict.fromkeys(architecture.linear_shapes(), scheme)
    cost = StepCost.of(architecture, groups, "fp16", 512)
    assert cost is not None
    ours = cost.cost(StepWork(8, 8 * 201, 8 * 200, 8))
    bound = decode_bound(architecture, groups, "fp16", PEAKS, batch_size=8, context_len=200)
    assert ours.num_bytes / 8 == pytest.approx(bound.bytes_per_token)
    assert (ours.float_flops + ours.int8_flops) / 8 == pytest.approx(bound.flops_per_token)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"peaks": {}}', '{"peaks": {"memory_gbps": 0, "float_gflops": 1, "int8_gops": 1}}', '{"decode": 3}'],
)
def test_a_file_without_peaks_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "peaks.json").write_text(text)
    with pytest.raises(UserError, match="peaks"):
        read_peaks(tmp_path / "peaks.json")


@pytest.mark.parametrize("around", [lambda peaks: {"peaks": peaks}, lambda peaks: {"decode": {"peaks": peaks}}])
def test_peaks_of_either_file_of_bench(tmp_path: Path, around: Any) -> None:
    peaks = {"memory_gbps": 10, "float_gflops": 100, "int8_gops": 400}
    (tmp_path / "peaks.json").write_text(json.dumps(around(peaks)))
    assert read_peaks(tmp_path / "peaks.json") == PEAKS
