"""Mixture of experts, up to the experts: each token's experts and their weights, and pairs sorted by expert.

`moe_route_softmax`: the k experts of largest logit, with the softmax over all experts as weight (Mixtral, Qwen3-MoE,
DeepSeek-V2). `moe_route_sigmoid`: sigmoid scores; experts are chosen by score + bias, and weighed by score (DeepSeek-V3).
With num_groups > 1, experts are chosen from the topk_groups best of num_groups equal groups only; a group is as good as its
best expert (softmax) or its best two together (sigmoid). With `renormalize` the k weights are divided by their sum; then they
are multiplied by routed_scale. Experts stand in descending order of choice; of equal ones the lowest index comes first. All in
fp32. `moe_route_softmax_scaled`: the same, and last each weight is multiplied by the number of its expert (Gemma 4).

`moe_sort`: a pair is a token at one of its experts. Pairs are sorted by expert, ascending by token within one. `offsets` has
the first pair of each expert and, last, how many there are; `tokens` the token of each pair, and `places` where each token's
pairs have come to stand. `moe_sort_ranked` sorts by `ranks[expert]`, a permutation: `offsets` are then of ranks, and experts
that stand together can have a product of their own.

Chained on a CPU, for hidden states x [T, D] after the norm (I = intermediate size of an expert):

    quant_matmul_fp32(x, router.weight) -> logits [T, E]
    moe_route_*(logits) -> topk_ids, topk_weights [T, k]
    moe_sort(topk_ids) -> offsets [E + 1], tokens [T * k], places [T, k]
    gather_rows*(x, tokens) -> [T * k, D]
    quant_matmul_experts_*(that, gate_up, offsets) -> [T * k, 2 * I]
    silu_and_mul on it -> [T * k, I]
    quant_matmul_experts_*(that, down, offsets) -> [T * k, D]
    moe_sum(that, places, topk_weights, shared = output of the shared experts if any) -> [T, D]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from kernels.spec import Arguments, Case, Cost, OpSpec, Scalar, Tensor


def _route_inputs(scoring: str, rng: np.random.Generator, case: Case) -> Arguments:
    t, e, k = (case.sizes[axis] for axis in ("T", "E", "top_k"))
    logits = rng.standard_normal((t, e + 8), np.float32)[:, :e] * 2
    if case.sizes["ties"]:
        logits[:] = np.rint(logits)
    bias = rng.uniform(-0.3, 0.3, e).astype(np.float32) * np.float32(not case.sizes["ties"])
    return {
        "logits": logits,
        **({"bias": bias} if scoring == "sigmoid" else {}),
        **({"expert_scales": rng.uniform(-2, 2, e).astype(np.float32)} if scoring == "softmax_scaled" else {}),
        "topk_ids": np.zeros((t, k), np.int32),
        "topk_weights": np.zeros((t, k), np.float32),
        "renormalize": case.sizes["renormalize"],
        "num_groups": case.sizes["num_groups"],
        "topk_groups": case.sizes["topk_groups"],
        "routed_scale": case.sizes["scale_percent"] / 100,
    }


def _route_cost(sizes: Mapping[str, int]) -> Cost:
    t, e, k = (sizes[axis] for axis in ("T", "E", "top_k"))
    return Cost(4 * t * (e + 2 * k), t * e * (4 + k))


def _sort_inputs(ranked: bool, rng: np.random.Generator, case: Case) -> Arguments:
    t, k, e, used = (case.sizes[axis] for axis in ("T", "top_k", "experts", "used"))
    ids = np.array([rng.permutation(used)[:k] + (e - used) for _ in range(t)], np.int32).reshape(t, k)
    return {
        "topk_ids": ids,
        **({"ranks": rng.permutation(e).astype(np.int32)} if ranked else {}),
        "offsets": np.full(e + 1, -7, np.int32),
        "tokens": np.full(t * k, -7, np.int32),
        "places": np.full((t, k), -7, np.int32),
    }


def _sort_cost(sizes: Mapping[str, int]) -> Cost:
    pairs = sizes["T"] * sizes["top_k"]
    return Cost(4 * 4 * pairs + 4 * sizes["ends"], 2 * pairs)


def route(scoring: str, backend: Literal["cpu", "gpu"]) -> OpSpec:
    """The router's choice on `backend`: the same on both."""
    of_experts = {"softmax": (), "sigmoid": (Tensor("bias", "f32", ("E",)),)}
    of_experts["softmax_scaled"] = (Tensor("expert_scales", "f32", ("E",)),)
    return OpSpec(
        symbol=f"{'gpu_' if backend == 'gpu' else ''}moe_route_{scoring}",
        op="moe_route",
        summary=f"top-k experts of each token by {scoring.replace('_', ', ')} scores, and their weights",
        tensors=(
            Tensor("logits", "f32", ("T", "E")),
            *of_experts[scoring],
            Tensor("topk_ids", "i32", ("T", "top_k"), "out"),
            Tensor("topk_weights", "f32", ("T", "top_k"), "out"),
        ),
        scalars=(
            Scalar("renormalize", "i64"),
            Scalar("num_groups", "i64"),
            Scalar("topk_groups", "i64"),
            Scalar("routed_scale", "f64"),
        ),
        variable=("T",),
        source="Jiang et al. 2024, Mixtral of Experts; DeepSeek-AI 2024, DeepSeek-V2 (2.2.2) and DeepSeek-V3 (2.1.2)",
        cases=tuple(
            Case(
                name,
                {"T": t, "E": e, "top_k": k, "renormalize": renormalize, "num_groups": groups, "topk_groups": topk_groups}
                | {"scale_percent": scale, "ties": ties},
            )
            for name, t, e, k, renormalize, groups, topk_groups, scale, ties in (
                ("renormalized", 5, 8, 2, 1, 1, 1, 100, 0),
                ("odd_experts", 3, 60, 4, 0, 1, 1, 100, 0),
                ("grouped", 4, 24, 3, 1, 4, 2, 250, 0),
                ("odd_groups", 3, 30, 6, 0, 3, 2, 160, 0),
                ("ties", 4, 16, 4, 0, 1, 1, 100, 1),
                ("one", 1, 4, 1, 0, 1, 1, 100, 0),
                ("no_tokens", 0, 8, 2, 1, 1, 1, 100, 0),
            )
        ),
        make_inputs=lambda rng, case: _route_inputs(scoring, rng, case),
        cost=_route_cost,
        backend=backend,
    )


def _sort(ranked: bool) -> OpSpec:
    return OpSpec(
        symbol="moe_sort_ranked" if ranked else "moe_sort",
        op="moe_route",
        summary=f"pairs of token and expert sorted by {'the rank of the ' if ranked else ''}expert",
        tensors=(
            Tensor("topk_ids", "i32", ("T", "top_k")),
            *((Tensor("ranks", "i32", ("E",)),) if ranked else ()),
            Tensor("offsets", "i32", ("ends",), "out"),
            Tensor("tokens", "i32", ("P",), "out"),
            Tensor("places", "i32", ("T", "top_k"), "out"),
        ),
        scalars=(),
        variable=("T", "P"),
        source="Gale et al. 2022, MegaBlocks (3.2)",
        cases=tuple(
            Case(name, {"T": t, "top_k": k, "experts": e, "used": used})
            for name, t, k, e, used in (
                ("decode", 5, 2, 8, 8),
                ("many", 350, 3, 5, 5),
                ("skewed", 150, 2, 6, 2),
                ("one", 1, 1, 4, 4),
                ("no_tokens", 0, 2, 4, 4),
            )
        ),
        make_inputs=lambda rng, case: _sort_inputs(ranked, rng, case),
        cost=_sort_cost,
    )


SPECS = (
    route("softmax", "cpu"),
    route("softmax_scaled", "cpu"),
    route("sigmoid", "cpu"),
    _sort(ranked=False),
    _sort(ranked=True),
)
