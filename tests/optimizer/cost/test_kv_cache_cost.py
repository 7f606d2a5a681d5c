"""What a KV cache costs beside what schemes cost."""

from __future__ import annotations

import pytest

from artifacts.precision import KvDtype, Scheme
from optimizer.cost.measured import MeasuredCost
from optimizer.measure.workload import Workload

INT8 = Scheme("int8")
DECODE = {"int8": {"qkv": 1.0, "other": 3.0}, "bf16": {"qkv": 2.0, "other": 3.0}}
PREFILL = {"int8": {"qkv": 10.0, "other": 30.0}, "bf16": {"qkv": 20.0, "other": 30.0}}
#: of the three milliseconds that schemes do not change, one is attention's over a bf16 cache
KV: dict[KvDtype, list[float]] = {"bf16": [1.0, 8.0], "fp16": [1.5, 9.0], "int8": [0.5, 8.0]}
#: one chunk of a prompt, spread over ten tokens
WORKLOAD = Workload(256, 10, 1)


def test_a_cache_adds_what_it_takes_beyond_the_one_that_schemes_were_profiled_on() -> None:
    cost = MeasuredCost(DECODE, PREFILL, ["layers.0.qkv"], WORKLOAD, KV)
    plan = {"layers.0.qkv": INT8}
    assert cost.latency_ms(plan) == pytest.approx(4.0 + 40.0 / 10)
    assert cost.latency_ms(plan, "bf16") == pytest.approx(cost.latency_ms(plan))
    assert cost.kv_ms("fp16") == pytest.approx(1.5 + 9.0 / 10)
    assert cost.latency_ms(plan, "fp16") == pytest.approx(8.0 + 0.5 + 1.0 / 10)
    assert cost.latency_ms(plan, "int8") == pytest.approx(8.0 - 0.5)
