"""Mixture of experts, up to the experts: router logits, each token's experts and their weights, pairs sorted by expert.

`gpu_moe_logits`: out = x W^T (+ bias) with fp32 accumulation and fp32 out: a router that rounds its logits chooses other
experts.

`gpu_moe_route_softmax`, `gpu_moe_route_softmax_scaled`, `gpu_moe_route_sigmoid`: as kernels/moe_route/spec.py has them.

`gpu_moe_align`: a pair p = token * k + slot stands for one token at one expert. sorted_ids has the pairs grouped by expert,
ascending within one, each expert's filled up with T * k to whole blocks of block_m; expert_ids is the expert of each block;
num_padded is block_m times the number of blocks in use, beyond which sorted_ids and expert_ids stay as they were. block_m is
the rows of a tile of moe_matmul, so it is chosen with that kernel's point, and one alignment serves both matmuls of a layer.
`num_blocks` is at least `launch.max_blocks(T * k, num_experts, block_m)`, whatever the routing.

A decoder chains, for hidden states x [T, D] after the norm (I = intermediate size of an expert):

    gpu_moe_logits(x, router.weight) -> logits [T, E]
    gpu_moe_route_*(logits) -> topk_ids, topk_weights [T, k]
    gpu_moe_align(topk_ids) -> sorted_ids, expert_ids, num_padded
    gpu_moe_matmul_*(x as [T, 1, D], gate_up [E, 2 * I, D], ..., no topk_weights) -> [T, k, 2 * I]
    gpu_silu_and_mul on it as [T * k, 2 * I] -> [T * k, I]
    gpu_moe_matmul_*(that as [T, k, I], down [E, D, I], ..., topk_weights) -> [T, k, D]
    gpu_moe_sum(that, shared = output of the shared experts if any) -> [T, D]

Tokens that only pad a graph's batch are routed like others: their outputs are not read.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.moe_route.launch import max_blocks
from kernels.moe_route.spec import route
from kernels.spec import Arguments, Case, Cost, OpSpec, Scalar, Tensor


def _logits_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, k, e = (case.sizes[axis] for axis in "TKE")
    # The token's row is the first part of a wider one.
    return {
        "x": rng.standard_normal((t, k + 8), np.float32)[:, :k],
        "weight": rng.standard_normal((e, k), np.float32) / np.float32(k**0.5),
        "bias": rng.standard_normal(e, np.float32) if case.sizes["bias"] else None,
        "out": np.zeros((t, e), np.float32),
    }


def _logits_cost(sizes: Mapping[str, int]) -> Cost:
    t, k, e = (sizes[axis] for axis in "TKE")
    return Cost(2 * (t + e) * k + 4 * t * e, 2 * t * k * e)


def _align_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, k, e, block_m = (case.sizes[axis] for axis in ("T", "top_k", "E", "block_m"))
    used = min(e, case.sizes["experts_used"])
    ids = np.array([rng.permutation(used)[:k] + (e - used) for _ in range(t)], np.int32).reshape(t, k)
    num_blocks = max_blocks(t * k, e, block_m) + 1
    return {
        "topk_ids": ids,
        "sorted_ids": np.full((num_blocks, block_m), -7, np.int32),
        "expert_ids": np.full(num_blocks, -7, np.int32),
        "num_padded": np.full(1, -7, np.int32),
        "num_experts": e,
    }


def _align_cost(sizes: Mapping[str, int]) -> Cost:
    pairs = sizes["T"] * sizes["top_k"]
    return Cost(4 * (pairs + sizes["num_blocks"] * (sizes["block_m"] + 1)), 2 * pairs)


SPECS = (
    OpSpec(
        symbol="gpu_moe_logits",
        op="moe_route",
        summary="router logits in fp32",
        tensors=(
            Tensor("x", "act", ("T", "K")),
            Tensor("weight", "act", ("E", "K")),
            Tensor("bias", "f32", ("E",), optional=True),
            Tensor("out", "f32", ("T", "E"), "out"),
        ),
        scalars=(),
        variable=("T",),
        source="DeepSeek-AI 2024, DeepSeek-V3 (2.1.2)",
        cases=tuple(
            Case(name, {"T": t, "K": k, "E": e, "bias": bias})
            for name, t, k, e, bias in (
                ("ragged", 19, 72, 20, 1),
                ("split", 3, 1552, 40, 1),
                ("one", 1, 16, 8, 0),
                ("no_tokens", 0, 32, 8, 0),
            )
        ),
        make_inputs=_logits_inputs,
        cost=_logits_cost,
        backend="gpu",
    ),
    route("softmax", "gpu"),
    route("softmax_scaled", "gpu"),
    route("sigmoid", "gpu"),
    OpSpec(
        symbol="gpu_moe_align",
        op="moe_route",
        summary="pairs of token and expert sorted by expert, in whole blocks",
        tensors=(
            Tensor("topk_ids", "i32", ("T", "top_k")),
            Tensor("sorted_ids", "i32", ("num_blocks", "block_m"), "inout"),
            Tensor("expert_ids", "i32", ("num_blocks",), "inout"),
            Tensor("num_padded", "i32", (1,), "out"),
        ),
        scalars=(Scalar("num_experts", "i64"),),
        variable=("T",),
        source="Gale et al. 2022, MegaBlocks (3.2)",
        cases=tuple(
            Case(name, {"T": t, "top_k": k, "E": e, "block_m": block_m, "experts_used": used})
            for name, t, k, e, block_m, used in (
                ("decode", 5, 2, 8, 16, 8),
                ("many", 350, 3, 5, 16, 5),
                ("skewed", 150, 2, 6, 64, 2),
                ("one", 1, 1, 4, 16, 4),
                ("no_tokens", 0, 2, 4, 16, 4),
            )
        ),
        make_inputs=_align_inputs,
        cost=_align_cost,
        backend="gpu",
    ),
)
