"""What one of several devices holds, reads and computes, against sums over the published shapes and counts by hand."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from artifacts.architecture import Architecture
from artifacts.manifest import Limits
from artifacts.precision import Plan, Scheme
from optimizer.measure.workload import Workload
from optimizer.parallel.division import Division, divisions
from optimizer.parallel.exchange import Exchange, Links, chance_of_device, exchanges
from optimizer.parallel.step import DeviceSteps
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.targets.gpu import GpuTarget
from runtime.models import architecture
from search_spaces.space import device, load_space
from tests.house.test_words import ROOT

R1 = architecture(json.loads((ROOT / "examples/deepseek-r1-671b/config.json").read_text()))
LLAMA = architecture(json.loads((ROOT / "examples/llama-3.1-8b/config.json").read_text()))
SMALL = R1.model_copy(update={"num_layers": 5})
LINKS = Links(gbps=450, latency_us=0.6, start_us=6.6)
SPLITS = divisions(R1, 8)


def uniform(a: Architecture, scheme: str) -> Plan:
    return {group: Scheme.parse("bf16" if group in ("embed", "head") else scheme) for group in a.linear_shapes()}


def steps(division: Division, a: Architecture, scheme: str = "bf16", num_seqs: int = 8, room: int = 128) -> DeviceSteps:
    """Of `num_seqs` sequences of `room` tokens each."""
    limits = Limits(
        kv_block_size=64, num_kv_blocks=num_seqs * room // 64, max_num_seqs=num_seqs, max_num_batched_tokens=64,
        max_model_len=room, num_threads=1,
    )  # fmt: skip
    return DeviceSteps(division, a, uniform(a, scheme), "bf16", limits, "bf16")


def test_the_shapes_are_those_of_the_model_that_was_published() -> None:
    """671 B parameters, 37 B of them for a token: DeepSeek-AI 2024, DeepSeek-V3, section 4.2."""
    sizes = [prod(shape) for shape in (*R1.linear_shapes().values(), *R1.float_shapes().values())]
    assert sum(sizes) == pytest.approx(671e9, rel=1e-3)
    flops = steps(Division(1, experts="sliced"), R1).decode(1, 0, lambda _: 0.0, LINKS).flops
    assert flops / 2 == pytest.approx(37e9, rel=0.02)


@pytest.mark.parametrize("division", SPLITS, ids=lambda division: division.title)
def test_devices_hold_the_model_together(division: Division) -> None:
    """Once each, but for what all have: latents' projections, gains, routers, and with sequences divided all but experts."""
    plan = uniform(R1, "fp8-block")
    whole, held = Division(1, experts="sliced").tensor_bytes(R1, plan), division.tensor_bytes(R1, plan)
    assert whole.keys() == held.keys()
    repeated = (".q_a.", ".kv_a.", "norm.", ".router.")
    for name, size in whole.items():
        everywhere = any(part in name for part in repeated) or (division.attention == "sequences" and ".experts_" not in name)
        assert held[name] * (1 if everywhere else 8) == size, name


def test_fewer_kv_heads_than_devices_are_repeated() -> None:
    rows, columns = Division(16).own(LLAMA).linear_shapes()["layers.0.qkv"]
    assert (rows, columns) == (32 // 16 * 128 + 2 * 128, 4096)
    assert steps(Division(16), LLAMA).memory(0).kv_cache == steps(Division(8), LLAMA).memory(0).kv_cache


def test_heads_divide_the_cache_of_grouped_queries_and_not_that_of_latents() -> None:
    def cache(division: Division, a: Architecture) -> int:
        return steps(division, a).memory(0).kv_cache

    assert cache(Division(8), LLAMA) * 8 == cache(Division(1), LLAMA)
    heads, _, sequences = SPLITS
    assert cache(heads, SMALL) == cache(sequences, SMALL) * 8 == cache(Division(1, experts="sliced"), SMALL)


@pytest.mark.parametrize("division", [*SPLITS, Division(8)], ids=lambda division: division.title)
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_devices_compute_what_one_would(division: Division, phase: str) -> None:
    """Together, less what all repeat under `heads`: projections of latents. A prompt of `sequences` is one on each device."""
    a = LLAMA.model_copy(update={"num_layers": 2}) if division.experts == "none" else SMALL

    def flops(division: Division) -> float:
        found = steps(division, a)
        if phase == "decode":
            return found.decode(8, 100, lambda _: 0.0, LINKS).flops
        return found.prefill(64, lambda _: 0.0, LINKS).flops / division.prompts_at_once

    repeated = 0.0
    if a.mla and division.attention == "heads":
        tokens = 8 if phase == "decode" else 64
        rows = (a.mla.q_lora_rank or 0) + a.mla.cache_dim
        repeated = 7 * 2.0 * tokens * a.num_layers * rows * a.hidden_size
    alone = Division(1, experts="sliced" if a.moe else "none")
    assert flops(division) * 8 - repeated == pytest.approx(flops(alone), rel=1e-9)


def test_a_step_reads_each_expert_in_use_once() -> None:
    """Of 256 experts, as many as a draw of 8 for each of 64 tokens hits; and all else but the embedding's other rows."""
    rng, (heads, whole, _) = np.random.default_rng(0), SPLITS
    hit = np.mean([len({e for _ in range(64) for e in rng.choice(256, 8, replace=False)}) for _ in range(20)])
    for division in (heads, whole):
        plan = uniform(SMALL, "fp8-block")
        sizes = division.tensor_bytes(SMALL, plan)
        experts = sum(size for name, size in sizes.items() if ".experts_" in name)
        rest = sum(size for name, size in sizes.items() if ".experts_" not in name and not name.startswith("embed"))
        read = steps(division, SMALL, "fp8-block", 64).decode(64, 0, lambda _: 0.0, LINKS).read_bytes
        assert read == pytest.approx(rest + experts * hit / 256, rel=5e-3)


@pytest.mark.parametrize("num_devices", [2, 4, 8, 16])
@pytest.mark.parametrize(("groups", "chosen"), [(8, 4), (1, 1)])
def test_a_token_is_sent_once_to_each_device_that_has_an_expert_of_it(num_devices: int, groups: int, chosen: int) -> None:
    """Against draws of groups, and of 8 experts in them."""
    moe, rng = R1.moe.model_copy(update={"num_groups": groups, "num_chosen_groups": chosen}), np.random.default_rng(0)

    def hit() -> set[int]:
        taken = rng.choice(groups, chosen, replace=False)
        inside = np.concatenate([np.arange(256).reshape(groups, -1)[group] for group in taken])
        return {int(expert) // (256 // num_devices) for expert in rng.choice(inside, 8, replace=False)}

    drawn = np.mean([len(hit()) for _ in range(2000)])
    assert chance_of_device(moe, num_devices) * num_devices == pytest.approx(drawn, rel=0.02)


def test_tokens_go_to_their_experts_and_back() -> None:
    there, back = exchanges(SPLITS[2], R1, uniform(R1, "fp8-block"), 64, 64)
    assert (there.kind, there.count) == (back.kind, back.count) == ("all-to-all", 58)
    assert (
        there.num_bytes == pytest.approx(8 * 7 * chance_of_device(R1.moe, 8) * 7168) and back.num_bytes == 2 * there.num_bytes
    )


def test_heads_are_summed_after_each_branch() -> None:
    sums, logits = exchanges(SPLITS[0], R1, uniform(R1, "bf16"), 64, 64)
    assert (sums.kind, sums.count, sums.num_bytes) == ("all-reduce", 2 * 61 + 1, 64 * 7168 * 2)
    assert (logits.kind, logits.count, logits.num_bytes) == ("all-gather", 1, 64 * 129280 * 4)
    assert not list(exchanges(Division(1), LLAMA, uniform(LLAMA, "bf16"), 64, 64))


@pytest.mark.parametrize(
    ("kind", "hops", "sent"), [("all-reduce", 14, 2 * 7 / 8), ("all-gather", 7, 7 / 8), ("all-to-all", 1, 1.0)]
)
def test_an_exchange_takes_its_hops_and_its_bytes(kind: str, hops: int, sent: float) -> None:
    small, large = (Exchange(kind, "", 1, num_bytes).us(8, LINKS) for num_bytes in (0, 1e9))
    assert small == pytest.approx(6.6 + hops * 0.6)
    assert large - small == pytest.approx(1e6 * sent / (450 * 0.82))


def test_what_cannot_be_divided_says_why() -> None:
    plan = uniform(LLAMA, "bf16")
    assert Division(8).refusal(LLAMA, plan) is None
    assert Division(32).refusal(LLAMA, plan) is None, "8 KV heads, each on four of them"
    three = LLAMA.model_copy(update={"num_q_heads": 48, "num_kv_heads": 12})
    assert Division(16).refusal(three, uniform(three, "bf16")) == "12 KV heads cannot be divided by 16"
    assert Division(3, "sequences", "whole").refusal(R1, uniform(R1, "bf16")) == "256 experts cannot be divided by 3"
    reason = Division(32, "heads", "sliced").refusal(R1, uniform(R1, "fp8-block"))
    assert reason is None or "cannot be divided by 32 in fp8-block" in reason


def test_every_linked_device_states_what_a_plan_needs() -> None:
    for name in ("a100", "h20", "h100", "h200", "b200"):
        found = device(name)
        assert found.link_gbps is not None and Links.of(found, 8).gbps == found.link_gbps.value / 2


def test_a_longer_context_takes_longer(tmp_path: Path) -> None:
    def decode_ms(context: int) -> float:
        ledger, reporter = Ledger("sqlite://", "test"), Reporter(Console(quiet=True))
        target = GpuTarget(("h200",), load_space(kind="gpu"), tmp_path, ledger, reporter, "bf16")
        target.expect(Workload(context, 2, 8))
        return steps(SPLITS[0], SMALL, room=8192).decode(8, context, target.time_us, LINKS).ms

    assert decode_ms(8192) > 1.1 * decode_ms(64)
