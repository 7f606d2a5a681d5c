"""Mixture of experts, behind the experts: out[t] = sum_j topk_weights[t, j] x[places[t, j]] (+ shared[t]), in order of j.

x has a row for each pair of a token and an expert, as `moe_sort` has sorted them. Their products: `quant_matmul_experts_*`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor


def _make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, k, n = (case.sizes[axis] for axis in ("T", "top_k", "N"))
    return {
        "x": rng.standard_normal((t * k, n), np.float32),
        "places": rng.permutation(t * k).astype(np.int32).reshape(t, k),
        "topk_weights": rng.uniform(0.1, 1, (t, k)).astype(np.float32),
        "shared": rng.standard_normal((t, n), np.float32) if case.sizes["shared"] else None,
        "out": np.zeros((t, n), np.float32),
    }


def _cost(sizes: Mapping[str, int]) -> Cost:
    t, k, n = (sizes[axis] for axis in ("T", "top_k", "N"))
    return Cost(4 * t * n * (k + 1), 2 * t * n * k)


SPECS = (
    OpSpec(
        symbol="moe_sum",
        op="moe_matmul",
        summary="weighted sum of a token's rows over its experts, and of the shared experts' row",
        tensors=(
            Tensor("x", "f32", ("P", "N")),
            Tensor("places", "i32", ("T", "top_k")),
            Tensor("topk_weights", "f32", ("T", "top_k")),
            Tensor("shared", "f32", ("T", "N"), optional=True),
            Tensor("out", "f32", ("T", "N"), "out"),
        ),
        scalars=(),
        variable=("T", "P"),
        source="Shazeer et al. 2017, Outrageously Large Neural Networks; Dai et al. 2024, DeepSeekMoE (shared experts)",
        cases=tuple(
            Case(name, {"T": t, "top_k": k, "N": n, "shared": shared})
            for name, t, k, n, shared in (
                ("shared", 4, 3, 72, 1),
                ("wide", 2, 2, 2100, 0),
                ("one", 1, 1, 8, 0),
                ("no_tokens", 0, 2, 8, 1),
            )
        ),
        make_inputs=_make_inputs,
        cost=_cost,
    ),
)
