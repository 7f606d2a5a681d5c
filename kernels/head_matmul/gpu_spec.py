"""out[t, h, :N] = W[h] x[t, h, :K] for every head h: the projections into and out of MLA's latent space, fp32 accumulation.

W is [H, N, K]. A head's row of x may be longer than K (q_nope is followed by q_pe), and one of out longer than N (the absorbed
query is followed by the rotated q_pe): what lies beyond is neither read nor written. How a decoder uses it:
kernels/mla_attention/gpu_spec.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor


def _make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, h, n, k, x_width, out_width = (case.sizes[axis] for axis in ("T", "H", "N", "K", "x_width", "out_width"))
    return {
        "x": rng.standard_normal((t, h * x_width + 16), np.float32)[:, : h * x_width].reshape(t, h, x_width),
        "weight": rng.standard_normal((h, n, k), np.float32) / np.float32(k**0.5),
        "out": rng.standard_normal((t, h, out_width), np.float32),
    }


def _cost(sizes: Mapping[str, int]) -> Cost:
    t, h, n, k = (sizes[axis] for axis in ("T", "H", "N", "K"))
    return Cost(2 * h * (n * k + t * (n + k)), 2.0 * t * h * n * k)


SPECS = (
    OpSpec(
        symbol="gpu_head_matmul",
        op="head_matmul",
        summary="each head's row times the head's matrix",
        tensors=(
            Tensor("x", "act", ("T", "H", "x_width")),
            Tensor("weight", "act", ("H", "N", "K")),
            Tensor("out", "act", ("T", "H", "out_width"), "inout"),
        ),
        scalars=(),
        variable=("T",),
        source="DeepSeek-AI 2024, DeepSeek-V2 (2.1.2, absorption)",
        cases=tuple(
            Case(name, {"T": t, "H": h, "N": n, "K": k, "x_width": x_width, "out_width": out_width})
            for name, t, h, n, k, x_width, out_width in (
                ("absorb", 5, 3, 80, 24, 40, 96),
                ("project", 4, 2, 24, 136, 136, 24),
                ("prefill", 70, 2, 144, 48, 64, 144),
                ("one", 1, 1, 16, 16, 16, 16),
                ("no_tokens", 0, 2, 16, 16, 16, 16),
            )
        ),
        make_inputs=_make_inputs,
        cost=_cost,
        backend="gpu",
    ),
)
