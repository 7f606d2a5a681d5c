"""out[t, h, :N] = x[t, h, :K] W[h] for every head h: the projections into and out of MLA's latent space.

W is [H, K, N]. A head's row of x may be longer than K (what meets the latent is followed by what is rotated), and one of out
longer than N: what lies beyond is neither read nor written. Sums are over k in ascending order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor


def _make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, h, n, k, x_width, out_width = (case.sizes[axis] for axis in ("T", "H", "N", "K", "x_width", "out_width"))
    return {
        "x": rng.standard_normal((t, h * x_width + 16), np.float32)[:, : h * x_width].reshape(t, h, x_width),
        "weight": rng.standard_normal((h, k, n), np.float32) / np.float32(k**0.5),
        "out": rng.standard_normal((t, h, out_width), np.float32),
    }


def _cost(sizes: Mapping[str, int]) -> Cost:
    t, h, n, k = (sizes[axis] for axis in ("T", "H", "N", "K"))
    return Cost(4 * h * (n * k + t * (n + k)), 2.0 * t * h * n * k)


SPECS = (
    OpSpec(
        symbol="head_matmul",
        op="head_matmul",
        summary="each head's row times the head's matrix",
        tensors=(
            Tensor("x", "f32", ("T", "H", "x_width")),
            Tensor("weight", "f32", ("H", "K", "N")),
            Tensor("out", "f32", ("T", "H", "out_width"), "inout"),
        ),
        scalars=(),
        variable=("T",),
        source="DeepSeek-AI 2024, DeepSeek-V2 (2.1.2, absorption)",
        cases=tuple(
            Case(name, {"T": t, "H": h, "N": n, "K": k, "x_width": x_width, "out_width": out_width})
            for name, t, h, n, k, x_width, out_width in (
                ("absorb", 5, 3, 80, 24, 40, 96),
                ("project", 4, 2, 21, 136, 136, 21),
                ("prefill", 70, 2, 144, 48, 64, 144),
                ("one", 1, 1, 10, 7, 7, 10),
                ("no_tokens", 0, 2, 16, 16, 16, 16),
            )
        ),
        make_inputs=_make_inputs,
        cost=_cost,
    ),
)
