"""Memory-bound ops and attention: times move the right way with bytes, splits, blocks and the GPU."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.cost.gpu import gpu_facts
from optimizer.cost.gpu.attention_time import AttentionProblem, AttentionTile, attention_time_us, reduction_us
from optimizer.cost.gpu.memory_time import memory_time_us
from search_spaces.space import device

H100 = gpu_facts(device("h100"))
LLAMA = AttentionProblem(num_seqs=64, query_tokens=1, context_tokens=4096, num_q_heads=32, num_kv_heads=8, head_dim=128)
DECODE = AttentionTile(block_m=16, block_n=64, num_stages=3)

amounts = st.floats(1, 1e10)


@given(num_bytes=amounts, programs=st.integers(1, 10_000), in_flight=st.floats(16, 1e5), factor=st.floats(1, 8))
def test_memory_time_moves_the_right_way(num_bytes: float, programs: int, in_flight: float, factor: float) -> None:
    time = memory_time_us(num_bytes, programs, in_flight, H100)
    assert memory_time_us(num_bytes * factor, programs, in_flight, H100) >= time
    assert memory_time_us(num_bytes, programs, in_flight * factor, H100) <= time
    assert memory_time_us(num_bytes, programs, in_flight, replace(H100, num_sms=int(H100.num_sms * factor))) <= time
    assert memory_time_us(num_bytes, programs, in_flight, H100, 8) <= time
    assert time > num_bytes / (H100.memory_bandwidth_gbps * 1e3)


def test_bandwidth_needs_bytes_in_flight() -> None:
    gigabyte = 1e9
    assert gigabyte / memory_time_us(gigabyte, 1056, 65536, H100, 8) > 0.8e3 * H100.memory_bandwidth_gbps
    assert gigabyte / memory_time_us(gigabyte, 8, 4096, H100) < 0.1e3 * H100.memory_bandwidth_gbps


def test_nothing_to_move_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        memory_time_us(0, 1, 1, H100)


@given(
    seqs=st.integers(1, 256),
    context=st.integers(1, 100_000),
    splits=st.sampled_from([1, 2, 8, 32]),
    block=st.sampled_from([16, 64, 256]),
)
def test_a_longer_context_is_never_faster(seqs: int, context: int, splits: int, block: int) -> None:
    tile = replace(DECODE, num_splits=splits, kv_block_size=block)
    shorter = attention_time_us(replace(LLAMA, num_seqs=seqs, context_tokens=context), tile, H100)
    longer = attention_time_us(replace(LLAMA, num_seqs=seqs, context_tokens=2 * context), tile, H100)
    assert longer.time_us >= shorter.time_us


def test_splits_pay_where_sequences_are_few() -> None:
    def best(num_seqs: int, context_tokens: int) -> int:
        problem = replace(LLAMA, num_seqs=num_seqs, context_tokens=context_tokens)
        return min((1, 2, 4, 8, 16, 32), key=lambda n: attention_time_us(problem, replace(DECODE, num_splits=n), H100).time_us)

    assert best(1, 32768) >= 8
    assert best(256, 2048) == 1
    assert reduction_us(LLAMA, 1, H100) == 0 < reduction_us(LLAMA, 2, H100) < reduction_us(LLAMA, 32, H100)


def test_decode_is_bound_by_memory_and_fp8_halves_it() -> None:
    full, half = (attention_time_us(replace(LLAMA, num_seqs=256, kv=kv), DECODE, H100) for kv in ("bf16", "fp8"))
    assert full.bound_by == "memory"
    assert half.pipes_us["memory"] == pytest.approx(full.pipes_us["memory"] / 2, rel=0.01)
    assert half.pipes_us["issue"] > full.pipes_us["issue"] / 2  # an 8-bit cache is converted


def test_larger_kv_blocks_need_fewer_instructions() -> None:
    issue = [
        attention_time_us(LLAMA, replace(DECODE, kv_block_size=size), H100).pipes_us["issue"] for size in (16, 32, 64, 128)
    ]
    assert issue[0] > issue[1] > issue[2] == issue[3]


def test_prefill_wants_rows_for_the_warpgroup_unit() -> None:
    prompt = replace(LLAMA, num_seqs=1, query_tokens=4096)
    small, large = (attention_time_us(prompt, AttentionTile(rows, 64, 4, 3), H100) for rows in (16, 64))
    assert large.time_us < small.time_us / 2
    assert large.pipes_us["memory"] < 0.1 * large.time_us
    assert large.pipes_us["exp"] == pytest.approx(small.pipes_us["exp"], rel=0.1)


def test_what_does_not_fit_is_refused() -> None:
    refused = attention_time_us(LLAMA, AttentionTile(128, 256, 8, 5), H100)
    assert math.isinf(refused.time_us) and "shared memory" in str(refused.refusal)


def test_impossible_problems() -> None:
    with pytest.raises(ValueError, match="multiple of KV heads"):
        replace(LLAMA, num_kv_heads=5)
    with pytest.raises(ValueError, match="includes its queries"):
        replace(LLAMA, query_tokens=5000)
