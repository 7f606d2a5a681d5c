"""Decode's roofline against sums done by hand."""

from __future__ import annotations

import pytest

from artifacts.architecture import Architecture
from runtime.bench.bound import DecodeBound, Peaks, decode_bound

TIED = Architecture(
    family="llama",
    vocab_size=1000,
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_q_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_position=512,
    rms_norm_eps=1e-5,
    tie_embeddings=True,
)
PEAKS = Peaks(memory_gbps=10, float_gflops=100, int8_gops=400)
MATRICES = 2 * ((64 + 2 * 32) * 64 + 64 * 64 + 256 * 64 + 64 * 128)
HEAD = 1000 * 64
NORMS = 4 * 64 * (2 * 2 + 1)


def bound(architecture: Architecture, scheme: str, batch_size: int = 1, context_len: int = 100) -> DecodeBound:
    groups = dict.fromkeys(architecture.linear_shapes(), scheme)
    return decode_bound(architecture, groups, "bf16", PEAKS, batch_size=batch_size, context_len=context_len)


def test_bytes_and_flops_of_one_token() -> None:
    one = bound(TIED, "bf16")
    kv = 2 * 2 * 32 * 2 * 101
    attention = 2 * 4 * 64 * 100
    assert one.bytes_per_token == 2 * (MATRICES + HEAD) + NORMS + kv
    assert one.flops_per_token == 2 * (MATRICES + HEAD) + attention
    assert one.memory_ms == pytest.approx(one.bytes_per_token / 10e9 * 1e3)
    assert one.compute_ms == pytest.approx(one.flops_per_token / 100e9 * 1e3)
    assert one.bound == "memory"


def test_times_are_of_the_whole_step() -> None:
    one, four = bound(TIED, "bf16"), bound(TIED, "bf16", batch_size=4)
    assert four.compute_ms == pytest.approx(4 * one.compute_ms)
    assert one.memory_ms < four.memory_ms < 4 * one.memory_ms, "weights are read once for all"
    assert four.memory_ms == pytest.approx(4 * four.bytes_per_token / 10e9 * 1e3)
    assert four.floor_ms == max(four.memory_ms, four.compute_ms)


def test_an_untied_embedding_is_read_by_the_row() -> None:
    untied = TIED.model_copy(update={"tie_embeddings": False})
    assert bound(untied, "int8").bytes_per_token == bound(TIED, "int8").bytes_per_token + 64


def test_bits_per_weight_and_int8_compute() -> None:
    assert bound(TIED, "int4-g32-asym").bytes_per_token < bound(TIED, "int8").bytes_per_token
    assert bound(TIED, "int8-a8").compute_ms < bound(TIED, "int8").compute_ms
    assert bound(TIED, "int8-a16").compute_ms > bound(TIED, "int8-a8").compute_ms
    assert bound(TIED, "int8-a8").bytes_per_token == bound(TIED, "int8").bytes_per_token


def test_a_window_limits_what_is_read() -> None:
    windowed = TIED.model_copy(update={"layer_windows": (16, 0)})
    saved = bound(TIED, "bf16").bytes_per_token - bound(windowed, "bf16").bytes_per_token
    assert saved == 2 * 32 * 2 * (100 - 16)


def test_balance_is_where_the_bound_turns() -> None:
    balance = bound(TIED, "bf16").balance_batch_size
    assert balance is not None and balance > 2
    assert bound(TIED, "bf16", batch_size=int(balance)).bound == "memory"
    assert bound(TIED, "bf16", batch_size=int(balance) + 1).bound == "compute"


def test_long_contexts_never_become_compute_bound() -> None:
    far = bound(TIED, "bf16", batch_size=10_000, context_len=500_000)
    assert far.balance_batch_size is None and far.bound == "memory"
