"""MoE: reference functions, chained as a decoder chains them, against transformers; the alignment against its definition."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.nn.functional import silu
from transformers import DeepseekV2Config, DeepseekV3Config, GptOssConfig, MixtralConfig, Qwen3MoeConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from kernels import registry
from kernels.gpu.target import ARCHS, Target
from kernels.interpreter import Interpreter
from kernels.moe_matmul.gpu_reference import gpu_moe_matmul_w16, gpu_moe_sum
from kernels.moe_route.gpu_reference import (
    gpu_moe_align,
    gpu_moe_logits,
    gpu_moe_route_sigmoid,
    gpu_moe_route_softmax,
)
from kernels.moe_route.launch import max_blocks
from optimizer.tuning.gpu.representative import call_of
from tests.kernels.gpu import contract
from tests.kernels.gpu.far_rows import check_far_rows

_DEEPSEEK = {
    "hidden_size": 32,
    "moe_intermediate_size": 24,
    "n_routed_experts": 12,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 2,
    "routed_scaling_factor": 2.5,
    "hidden_act": "silu",
}
_GROUPED = {"num_groups": 4, "topk_groups": 2, "routed_scale": 2.5}
_PLAIN = {"num_groups": 1, "topk_groups": 1, "routed_scale": 1.0}

BLOCKS = {
    "mixtral": (
        lambda: MixtralSparseMoeBlock(
            MixtralConfig(hidden_size=32, intermediate_size=24, num_local_experts=6, num_experts_per_tok=2)
        ),
        {**_PLAIN, "renormalize": 1},
    ),
    "qwen3_moe": (
        lambda: Qwen3MoeSparseMoeBlock(
            Qwen3MoeConfig(hidden_size=32, moe_intermediate_size=24, num_experts=8, num_experts_per_tok=3, norm_topk_prob=False)
        ),
        {**_PLAIN, "renormalize": 0},
    ),
    "gpt_oss": (
        lambda: GptOssMLP(GptOssConfig(hidden_size=32, intermediate_size=24, num_local_experts=6, num_experts_per_tok=3)),
        {**_PLAIN, "renormalize": 1},
    ),
    "deepseek_v2": (
        lambda: DeepseekV2Moe(DeepseekV2Config(**_DEEPSEEK, topk_method="group_limited_greedy")),
        {**_GROUPED, "renormalize": 0},
    ),
    "deepseek_v3": (
        lambda: DeepseekV3MoE(DeepseekV3Config(**_DEEPSEEK, norm_topk_prob=True)),
        {**_GROUPED, "renormalize": 1},
    ),
}


def _chained(block: torch.nn.Module, x: torch.Tensor, routing: dict[str, float]) -> torch.Tensor:
    """What a decoder computes with the ops, in the dtype of x."""
    gate, experts = getattr(block, "gate", None) or block.router, block.experts
    num_experts, num_tokens, top_k = gate.weight.shape[0], len(x), gate.top_k
    logits = torch.empty(num_tokens, num_experts)
    gpu_moe_logits(x, gate.weight, getattr(gate, "bias", None), logits)
    ids, weights = torch.empty(num_tokens, top_k, dtype=torch.int32), torch.empty(num_tokens, top_k)
    if hasattr(gate, "e_score_correction_bias"):
        gpu_moe_route_sigmoid(logits, gate.e_score_correction_bias, ids, weights, **routing)
    else:
        gpu_moe_route_softmax(logits, ids, weights, **routing)
    num_blocks = max_blocks(num_tokens * top_k, num_experts, 16)
    alignment = {
        "sorted_ids": torch.empty(num_blocks, 16, dtype=torch.int32),
        "expert_ids": torch.empty(num_blocks, dtype=torch.int32),
        "num_padded": torch.empty(1, dtype=torch.int32),
    }
    gpu_moe_align(ids, **alignment, num_experts=num_experts)
    into, out_of = experts.gate_up_proj, experts.down_proj
    biases = getattr(experts, "gate_up_proj_bias", None), getattr(experts, "down_proj_bias", None)
    if biases[0] is not None:  # gpt_oss, whose matrices lie the other way round
        into, out_of = into.transpose(1, 2), out_of.transpose(1, 2)
    up = torch.empty(num_tokens, top_k, into.shape[1])
    gpu_moe_matmul_w16(x[:, None], into, biases[0], None, **alignment, out=up)
    activated = experts._apply_gate(up) if biases[0] is not None else silu(up.chunk(2, dim=2)[0]) * up.chunk(2, dim=2)[1]
    down = torch.empty(num_tokens, top_k, x.shape[1])
    gpu_moe_matmul_w16(activated, out_of, biases[1], weights, **alignment, out=down)
    out = torch.empty_like(x)
    gpu_moe_sum(down, block.shared_experts(x) if hasattr(block, "shared_experts") else None, out)
    return out


@pytest.mark.parametrize("name", BLOCKS)
@torch.inference_mode()
def test_chained_ops_are_the_models_block(name: str) -> None:
    build, routing = BLOCKS[name]
    torch.manual_seed(0)
    block = build()
    for parameter in block.parameters():
        parameter.normal_(std=0.3)
    if hasattr(getattr(block, "gate", None), "e_score_correction_bias"):
        block.gate.e_score_correction_bias.uniform_(-0.3, 0.3)
    x = torch.randn(17, 32)
    torch.testing.assert_close(_chained(block, x, routing), block(x[None])[0].view(17, 32), rtol=2e-4, atol=2e-5)


@settings(max_examples=40)
@given(st.data())
def test_alignment_holds_every_pair_once_beside_its_expert(data: st.DataObject) -> None:
    num_experts, block_m = data.draw(st.integers(1, 9)), data.draw(st.sampled_from([8, 16, 64]))
    top_k = data.draw(st.integers(1, num_experts))
    choice = st.permutations(range(num_experts)).map(lambda experts: experts[:top_k])
    ids = torch.tensor(data.draw(st.lists(choice, max_size=30)), dtype=torch.int32).reshape(-1, top_k)
    num_blocks = max_blocks(ids.numel(), num_experts, block_m)
    sorted_ids = torch.full((num_blocks, block_m), -1, dtype=torch.int32)
    expert_ids, num_padded = torch.full((num_blocks,), -1, dtype=torch.int32), torch.empty(1, dtype=torch.int32)

    gpu_moe_align(ids, sorted_ids, expert_ids, num_padded, num_experts)

    used = int(num_padded) // block_m
    real = sorted_ids[:used] < ids.numel()
    assert sorted(sorted_ids[:used][real].tolist()) == list(range(ids.numel()))
    owners = expert_ids[:used, None].expand(-1, block_m)[real]
    assert torch.equal(ids.flatten()[sorted_ids[:used][real].long()], owners)
    assert torch.equal(owners, owners.sort().values)
    assert real[:, 0].all()
    assert (sorted_ids[used:] == -1).all()


def test_largest_alignment_is_reached() -> None:
    """Every expert with pairs leaves all but one row of its last block empty: no smaller bound would do."""
    assert max_blocks(num_pairs=16 + 1 + 1, num_experts=3, block_m=16) == 3
    assert max_blocks(num_pairs=2, num_experts=256, block_m=64) == 2
    assert max_blocks(num_pairs=0, num_experts=8, block_m=16) == 0


def test_a_short_alignment_is_refused() -> None:
    spec = registry.spec("gpu_moe_align")
    case = next(case for case in spec.cases if case.name == "decode")
    arguments = contract.make(spec, case)
    arguments["sorted_ids"] = arguments["sorted_ids"][:3]
    call = contract.problem(spec, contract.values(spec, arguments))
    with pytest.raises(ValueError, match=r"may need 8 blocks of 16; sorted_ids has 3: make it longer"):
        registry.plan_call(call, contract.TARGET)


def test_padded_rows_and_unused_blocks_touch_nothing() -> None:
    """What the matmul does not own keeps its value: rows of other pairs, and everything when no block is in use."""
    spec = registry.spec("gpu_moe_matmul_w16").typed("f16")
    case = next(case for case in spec.cases if case.name == "decode")
    made = contract.values(spec, contract.make(spec, case))
    tensors = SimpleNamespace(**made)
    tensors.num_padded.fill_(0)
    tensors.out.fill_(7.0)
    Interpreter().run(registry.plan_call(contract.problem(spec, made), contract.TARGET), made)
    assert (tensors.out == 7.0).all()


@pytest.mark.parametrize("variant", ["w8", "int4_sym", "int4_asym", "mxfp4", "nvfp4"])
@pytest.mark.parametrize("arch", ARCHS)
def test_default_of_widened_experts_is_legal_everywhere(variant: str, arch: str) -> None:
    tuning, target = registry.gpu_tuning("moe_matmul"), Target.of(arch, 132)
    for block_m, (k, n, group) in product((16, 32, 64, 128), ((2048, 1536, 64), (768, 2048, 128), (96, 80, 32))):
        sizes = {"T": 64, "J": 1, "top_k": 4, "E": 16, "block_m": block_m, "num_blocks": max_blocks(256, 16, block_m)}
        call = call_of(f"gpu_moe_matmul_{variant}", {**sizes, "N": n, "K": k, "groups": k // group}, {})
        tuning.checked(call, tuning.default(call, target), target)


@pytest.mark.parametrize(
    ("change", "sizes", "message"),
    [
        ({"block_m": 32}, {}, "an alignment of 16 rows has no whole number of tiles of 32"),
        ({}, {"N": 72}, "experts begin at tiles of 16 rows: theirs must be a multiple of 16, got 72"),
        ({}, {"groups": 4}, "a group is 32, 64 or 128 columns"),
        ({"block_n": 64, "num_warps": 8}, {}, "8 warps of 16 rows are more than a tile of 64"),
    ],
)
def test_illegal_points_of_int4_are_refused(change: dict[str, int], sizes: dict[str, int], message: str) -> None:
    legal = {"T": 4, "J": 1, "top_k": 2, "E": 4, "N": 64, "K": 64, "groups": 1, "block_m": 16, "num_blocks": 8}
    tuning = registry.gpu_tuning("moe_matmul")
    point = tuning.default(call_of("gpu_moe_matmul_int4_sym", legal, {}), contract.TARGET)
    with pytest.raises(ValueError, match=message):
        tuning.checked(call_of("gpu_moe_matmul_int4_sym", legal | sizes, {}), {**point, **change}, contract.TARGET)


@pytest.mark.parametrize(
    ("change", "sizes", "message"),
    [
        ({"block_m": 32}, {}, "an alignment of 16 rows has no whole number of tiles of 32"),
        ({"block_m": 8}, {}, r"block_m of gpu_moe_matmul_mxfp4 must be one of \(16, 32, 64, 128\), got 8"),
        ({}, {"N": 72}, "experts begin at tiles of 16 rows: theirs must be a multiple of 16, got 72"),
        ({"block_m": 128, "block_n": 256, "num_warps": 4}, {"block_m": 128}, "256 accumulators of a thread"),
    ],
)
def test_illegal_points_of_mxfp4_are_refused(change: dict[str, int], sizes: dict[str, int], message: str) -> None:
    legal = {"T": 4, "J": 1, "top_k": 2, "E": 4, "N": 64, "K": 64, "block_m": 16, "num_blocks": 8}
    tuning = registry.gpu_tuning("moe_matmul")
    point = tuning.default(call_of("gpu_moe_matmul_mxfp4", legal, {}), contract.TARGET)
    with pytest.raises(ValueError, match=message):
        tuning.checked(call_of("gpu_moe_matmul_mxfp4", legal | sizes, {}), {**point, **change}, contract.TARGET)


@pytest.mark.parametrize(
    "symbol",
    ["gpu_moe_logits", "gpu_moe_matmul_w16", "gpu_moe_matmul_int4_sym", "gpu_moe_matmul_mxfp4", "gpu_moe_sum"],
)
def test_rows_may_lie_past_2_to_the_31(symbol: str) -> None:
    tokens = torch.arange(48.0).remainder(7).sub(3).half().view(3, 16)
    routed = {
        "bias": None,
        "topk_weights": None,
        "sorted_ids": torch.tensor([[0, 1, 2] + [3] * 13], dtype=torch.int32),
        "expert_ids": torch.ones(1, dtype=torch.int32),
        "num_padded": torch.tensor([16], dtype=torch.int32),
    }
    wide = torch.arange(96.0).remainder(7).sub(3).half().view(3, 1, 32)
    words = torch.arange(256).to(torch.uint32).view(2, 1, 1, 128)
    arguments: dict[str, object] = {
        "gpu_moe_logits": {"x": tokens, "weight": tokens, "bias": None, "out": torch.zeros(3, 3)},
        "gpu_moe_sum": {"x": tokens.view(3, 2, 8), "shared": None, "out": torch.zeros(3, 8).half()},
        "gpu_moe_matmul_w16": {
            "x": tokens.view(3, 1, 16),
            "weight": tokens.expand(2, 3, 16).contiguous(),
            **routed,
            "out": torch.zeros(3, 1, 3).half(),
        },
        "gpu_moe_matmul_int4_sym": {
            "x": wide,
            "codes": words,
            "scales": torch.ones(2, 1, 1, 16).half(),
            **routed,
            "out": torch.zeros(3, 1, 16).half(),
        },
        "gpu_moe_matmul_mxfp4": {
            "x": wide,
            "codes": words,
            "scales": torch.full((2, 1, 1, 8), 0x7F7F7F7F).to(torch.uint32),
            **routed,
            "out": torch.zeros(3, 1, 16).half(),
        },
    }[symbol]
    check_far_rows(symbol, arguments, 3)
