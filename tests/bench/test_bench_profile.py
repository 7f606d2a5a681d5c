"""Profiles of a tiny bundle, and the command that prints them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from artifacts.reader import open_bundle
from kernels.cpu.host import host
from kernels.cpu.library import Library
from runtime.bench.bound import Peaks, decode_bound
from runtime.bench.command import bench
from runtime.bench.peaks import measure_peaks
from runtime.bench.profile import Profile, profile_decode, profile_prefill
from runtime.loading import load_runner
from runtime.model_runner import ProgramRunner
from tests.exporters.conftest import save_gpu_bundle
from tests.runtime.conftest import Tiny, tiny  # noqa: F401 - a fixture

PEAKS = Peaks(memory_gbps=10, float_gflops=50, int8_gops=200)


@pytest.fixture(scope="module")
def runner(tiny_bundle: Path) -> ProgramRunner:
    return load_runner(open_bundle(tiny_bundle, machine=host().machine, cpu_flags=host().flags))


def bytes_of(profile: Profile, part: str, symbol: str) -> float:
    (work,) = [work for work in profile.works if (work.part, work.symbol) == (part, symbol)]
    return work.bytes


def test_decode(runner: ProgramRunner) -> None:
    profile = profile_decode(runner, 100, PEAKS)
    assert {work.part for work in profile.works} == {
        "embed", "norm", "qkv", "rope", "attention", "o", "gate_up", "activation", "down", "head",
    }  # fmt: skip
    assert sum(work.num_calls for work in profile.works) == len(runner.step.program.calls) == profile.total.num_calls
    assert all(work.ms > 0 and work.floor_ms == max(work.memory_ms, work.compute_ms) for work in profile.works)
    times = [work.ms for work in profile.works]
    assert times == sorted(times, reverse=True)
    assert bytes_of(profile, "qkv", "quant_matmul_int8_a8") == 128 * 64 + 64 + 4 * 128
    assert bytes_of(profile, "qkv", "quant_matmul_bf16") == 2 * 128 * 64 + 4 * 64 + 4 * 128
    assert bytes_of(profile, "o", "quant_matmul_int4_sym") == 64 * 64 * (4 + 16 / 32) / 8 + 4 * 64 + 4 * 64
    keys_and_values = 2 * 32 * 2 * (100 + 20)  # of two layers, one of which sees a window of 20
    assert bytes_of(profile, "attention", "paged_attention_bf16") == keys_and_values + 2 * 8 * 64


def test_flops_of_decode_are_those_of_the_bound(runner: ProgramRunner, tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle, machine=host().machine, cpu_flags=host().flags).manifest
    bound = decode_bound(manifest.architecture, manifest.precision.groups, "bf16", PEAKS, context_len=100)
    matrices = ("qkv", "o", "gate_up", "down", "head", "attention")
    works = [work for work in profile_decode(runner, 100, PEAKS).works if work.part in matrices]
    assert sum(work.flops for work in works if "matmul" in work.symbol or "attention" in work.symbol) == bound.flops_per_token


def test_each_kernel_is_held_against_the_arithmetic_that_it_does(runner: ProgramRunner) -> None:
    """Products of bytes, twice as many for activations of 16 bits, are no floating point; norms and roundings are."""
    reached = {"int8": PEAKS.int8_gops, "bf16": max(PEAKS.float_gflops, PEAKS.int8_gops / 2), "float": PEAKS.float_gflops}
    kinds: dict[str, str] = {}
    for work in (work for work in profile_prefill(runner, 32, PEAKS).works if work.flops):
        (kind,) = [kind for kind, gops in reached.items() if work.compute_ms == pytest.approx(work.flops / gops / 1e6)]
        kinds[work.symbol] = kind
    assert kinds["quant_matmul_int8_a8"] == kinds["quant_matmul_int8_a16"] == "int8"
    assert kinds["paged_attention_bf16"] == "bf16"
    assert {kind for symbol, kind in kinds.items() if symbol.startswith(("rms_norm", "quantize", "silu"))} == {"float"}
    assert kinds["quant_matmul_bf16"] == kinds["quant_matmul_fp32"] == kinds["quant_matmul_int4_sym"] == "float"


def test_prefill_computes_causally_and_at_most_a_step(runner: ProgramRunner) -> None:
    profile = profile_prefill(runner, 1000, PEAKS)
    assert profile.num_tokens == profile.context_len == 32, "max_num_batched_tokens"
    (attention,) = [work for work in profile.works if work.part == "attention"]
    seen = sum(range(1, 33)) + sum(min(n, 20) for n in range(1, 33))
    assert attention.flops == 4 * seen * 64


def test_a_context_that_is_too_long(runner: ProgramRunner) -> None:
    with pytest.raises(ValueError, match="at most 128 tokens, got 129"):
        profile_decode(runner, 129, PEAKS)


def test_peaks_are_plausible_rates_of_a_cpu(tiny_bundle: Path) -> None:
    """Wide on purpose: other work on the machine slows what is measured here, and a unit is wrong by 1,000."""
    peaks = measure_peaks(Library(tiny_bundle / "kernels" / "cpu.so"), 1)
    assert 0.1 < peaks.memory_gbps < 2_000
    assert 0.1 < peaks.float_gflops < 5_000
    assert 0.1 < peaks.int8_gops < 50_000


def test_the_command(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    result = CliRunner().invoke(bench, ["--profile", str(tiny_bundle), "--prompt-tokens", "20", "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert "decode of 1 token at a context of 20" in result.output and "prefill of 20 tokens" in result.output
    written = json.loads(out.read_text())
    assert [p["phase"] for p in written["profiles"]] == ["decode", "prefill"]
    assert written["profiles"][0]["total"]["ms"] == pytest.approx(sum(w["ms"] for w in written["profiles"][0]["works"]))
    assert written["peaks"]["memory_gbps"] > 0


def test_the_command_refuses(tiny_bundle: Path, tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        result = CliRunner().invoke(bench, arguments)
        assert result.exit_code != 0
        return result.output

    assert "either the URL" in said()
    assert "either the URL" in said("http://x", "--profile", str(tiny_bundle))
    assert "leave out --output-tokens" in said("--profile", str(tiny_bundle), "--output-tokens", "3")
    assert "leave out --rate" in said("http://x", "--bundle", str(tiny_bundle), "--rate", "3")
    assert "manifest.json" in said("--profile", str(tmp_path))


def test_the_command_refuses_a_bundle_that_runs_on_a_gpu(tiny: Callable[[str], Tiny], tmp_path: Path) -> None:  # noqa: F811
    model = tiny("llama")
    made = save_gpu_bundle(tmp_path / "bundle", model, dict.fromkeys(model.architecture.linear_shapes(), "bf16"))
    result = CliRunner().invoke(bench, ["--profile", str(made)])
    assert result.exit_code == 1 and "runs on a GPU" in result.output
