"""The matmul time model: it moves the right way, refuses what cannot run, ranks alike everywhere, and knows tuned winners."""

from __future__ import annotations

import math
import os
import runpy
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from optimizer.cost.gpu import GpuFacts, MatmulProblem, StaticFacts, Tile, gpu_facts, rank, time_us
from optimizer.cost.gpu.problem import filled
from search_spaces.schema import Device
from search_spaces.space import device, device_names

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
GPUS = [gpu_facts(device(name)) for name in device_names() if device(name).kind == "gpu"]
H100, A100, MI300X = (next(gpu for gpu in GPUS if gpu.name == name) for name in ("h100", "a100", "mi300x"))
TILES = [Tile(*t) for t in product((16, 64, 128), (32, 128, 256), (64, 128), (4, 8), (2, 3, 4))]

tiles = st.sampled_from(TILES)
gpus = st.sampled_from(GPUS)
problems = st.builds(
    MatmulProblem,
    m=st.integers(1, 4096),
    n=st.integers(1, 16384),
    k=st.integers(1, 16384),
    a=st.sampled_from(["bf16", "fp8", "int8"]),
    b=st.sampled_from(["fp8", "int8"]),
    block_scaled=st.booleans(),
)


def predicted(problem: MatmulProblem, tile: Tile, gpu: GpuFacts) -> float:
    time = time_us(problem, tile, gpu).time_us
    assume(math.isfinite(time))
    return time


@given(problem=problems, tile=tiles, gpu=gpus, factor=st.integers(2, 5), extent=st.sampled_from(["m", "n", "k"]))
def test_more_work_is_never_faster(problem: MatmulProblem, tile: Tile, gpu: GpuFacts, factor: int, extent: str) -> None:
    larger = replace(problem, **{extent: getattr(problem, extent) * factor})
    assert predicted(larger, tile, gpu) >= predicted(problem, tile, gpu) * (1 - 1e-9)


@given(problem=problems, tile=tiles, gpu=gpus, factor=st.floats(1, 4))
def test_a_better_gpu_is_never_slower(problem: MatmulProblem, tile: Tile, gpu: GpuFacts, factor: float) -> None:
    time = predicted(problem, tile, gpu) * (1 + 1e-9)
    assert predicted(problem, tile, replace(gpu, num_sms=int(gpu.num_sms * factor))) <= time
    assert predicted(problem, tile, replace(gpu, memory_bandwidth_gbps=gpu.memory_bandwidth_gbps * factor)) <= time
    rates = {dtype: rate * factor for dtype, rate in gpu.flops_per_clock.items()}
    assert predicted(problem, tile, replace(gpu, flops_per_clock=rates)) <= time


@given(problem=problems, tile=tiles, gpu=gpus)
def test_no_tile_beats_memory_or_the_matrix_units(problem: MatmulProblem, tile: Tile, gpu: GpuFacts) -> None:
    time = predicted(problem, tile, gpu)
    peak = gpu.flops_per_clock[gpu.computes(problem.a)] * gpu.num_sms * gpu.clock_ghz * 1e3
    assert time > 2 * problem.m * problem.n * problem.k / peak
    assert time > problem.unique_bytes / (gpu.memory_bandwidth_gbps * 1e3)


def test_every_pipe_can_bind() -> None:
    decode = time_us(MatmulProblem(16, 16384, 16384), Tile(16, 128, 128, 4, 4), H100)
    prefill = time_us(MatmulProblem(8192, 16384, 16384), Tile(128, 256, 64, 8, 4), H100)
    alone = time_us(MatmulProblem(16, 128, 16384), Tile(16, 64, 64, 4, 2), H100)
    assert decode.bound_by == "memory"
    assert prefill.pipes_us["tensor"] > 10 * prefill.pipes_us["memory"]
    assert alone.bound_by == "chain"


def test_what_cannot_run_is_refused() -> None:
    problem = MatmulProblem(4096, 4096, 4096)
    too_large = time_us(problem, Tile(256, 256, 128, 8, 4), A100)
    assert math.isinf(too_large.time_us) and "shared memory" in str(too_large.refusal)
    assert "threads" in str(time_us(problem, Tile(64, 64, 64, 32, 2), MI300X).refusal)
    scaled = replace(problem, a="fp8", b="fp8", block_scaled=True)
    assert "another scale" in str(time_us(scaled, Tile(64, 64, 256, 4, 2), H100).refusal)
    assert time_us(problem, Tile(64, 64, 64, 4, 3), A100).refusal is None


def test_a_compiled_kernel_overrides_the_estimate() -> None:
    problem, tile = MatmulProblem(4096, 4096, 4096), Tile(128, 128, 64, 8, 3)
    estimate = time_us(problem, tile, H100)
    assert time_us(problem, tile, H100, StaticFacts(loop_instructions=5000)).time_us > 2 * estimate.time_us
    assert time_us(problem, tile, H100, StaticFacts(registers=250)).blocks_per_sm == 1
    assert time_us(problem, tile, H100, StaticFacts(blocks_per_sm=1)).blocks_per_sm == 1
    assert time_us(problem, tile, H100, StaticFacts(shared_bytes=250_000)).refusal is not None


def test_spilling_costs() -> None:
    problem = MatmulProblem(4096, 4096, 4096, "fp8", "fp8", block_scaled=True)
    four, eight = (time_us(problem, Tile(128, 256, 128, warps, 3), H100).time_us for warps in (4, 8))
    assert four > 1.5 * eight


def test_ranking_is_sorted_complete_and_keeps_the_order_of_equals() -> None:
    problem = MatmulProblem(64, 4096, 4096)
    ranked = rank(problem, TILES, A100)
    assert sorted(entry.tile for entry in ranked) == sorted(TILES)
    assert [entry.time_us for entry in ranked] == sorted(entry.time_us for entry in ranked)
    # Nothing in the model depends on group_m, so these are equal.
    groups = [Tile(64, 64, 64, 4, 3, group_m=group) for group in (8, 1, 64, 16)]
    assert [entry.tile for entry in rank(problem, groups, A100)] == groups


def test_ranking_several_problems_adds_their_times() -> None:
    first, second = MatmulProblem(64, 4096, 4096), MatmulProblem(64, 4096, 14336)
    for entry in rank([first, second], TILES[:8], H100):
        separate = time_us(first, entry.tile, H100).time_us + time_us(second, entry.tile, H100).time_us
        assert entry.time_us == pytest.approx(separate)


@pytest.mark.parametrize(
    ("tokens", "top_k", "experts", "block"), [(1, 2, 8, 16), (64, 8, 128, 16), (512, 8, 64, 32), (300, 1, 4, 64)]
)
def test_expected_blocks_of_routed_tokens(tokens: int, top_k: int, experts: int, block: int) -> None:
    draws = np.random.default_rng(0)
    counts = np.stack(
        [np.bincount(np.argsort(draws.random((tokens, experts)))[:, :top_k].ravel(), minlength=experts) for _ in range(200)]
    )
    blocks, active = filled(tokens, top_k, experts, block)
    assert blocks == pytest.approx(np.ceil(counts / block).sum(axis=1).mean(), rel=0.1)
    assert active == pytest.approx((counts > 0).sum(axis=1).mean(), rel=0.05)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_every_gpu_has_all_that_is_needed(gpu: GpuFacts) -> None:
    assert rank(MatmulProblem(32, 4096, 4096), TILES, gpu)[0].time_us < 1e4
    # A power of two of operations a clock, give or take the rounding of data sheets and clocks; H20 is capped below its own.
    if gpu.name != "h20":
        rate = math.log2(gpu.flops_per_clock["bf16"])
        assert rate == pytest.approx(round(rate), abs=0.02)


def test_a_device_without_the_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the arch of a device; x does not"):
        gpu_facts(Device(name="x", title="x", kind="gpu", buildable=False))
    with pytest.raises(ValueError, match="needs num_sms of a device; x does not"):
        gpu_facts(Device(name="x", title="x", kind="gpu", buildable=False, arch="sm_90"))


@pytest.mark.parametrize("fields", [{"m": 0}, {"top_k": 2}, {"num_experts": 0}])
def test_an_impossible_problem(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at"):
        MatmulProblem(**({"m": 1, "n": 1, "k": 1} | fields))


def test_an_impossible_tile() -> None:
    with pytest.raises(ValueError, match=r"block_n must be .* got 48"):
        Tile(64, 48, 64, 4, 3)


@pytest.mark.skipif(
    "COLDFORGE_VLLM_CONFIGS" not in os.environ, reason="set COLDFORGE_VLLM_CONFIGS to a folder of vLLM's tuned files"
)
def test_tuned_winners_stand_high(monkeypatch: pytest.MonkeyPatch) -> None:
    """The acceptance line, on the block-scaled fp8 files for H100, dense and expert."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    benchmark: dict[str, Any] = runpy.run_path(str(BENCHMARKS / "ranker_agreement.py"))
    winners = [
        tuned
        for tuned in benchmark["read_tuned"](Path(os.environ["COLDFORGE_VLLM_CONFIGS"]))
        if tuned.device == "h100" and tuned.family.endswith("fp8_w8a8 block")
    ]
    found = benchmark["agreement"](winners, benchmark["ours"])
    for group in ("h100, dense fp8_w8a8 block", "h100, moe fp8_w8a8 block", "h100 held out"):
        assert found[group]["inside"]["40"] >= 90, group
        assert found[group]["inside"]["8"] >= 60, group
