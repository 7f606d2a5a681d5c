"""out = x / sqrt(mean(x^2) + eps) * weight over the last axis. With a residual: residual += x, and that sum is normalized.

G groups of D per token: 1 for a layer norm, the number of heads for QK-norm on a view of the qkv buffer. `out` may be `x`.
`rms_norm_a8` writes what quantize_activations makes of a layer norm's output, to the bit, and not the output.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.quantize_activations.spec import quantized, quantized_buffers
from kernels.spec import Arguments, Case, Cost, OpSpec, Scalar, Tensor


def _make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    shape = tuple(case.sizes[axis] for axis in "TGD")
    return {
        "x": rng.standard_normal(shape, np.float32) * np.float32(case.sizes["spread_thousandths"] / 1000),
        "residual": rng.standard_normal(shape, np.float32) if case.sizes["residual"] else None,
        "weight": rng.standard_normal(shape[2], np.float32),
        "out": np.zeros(shape, np.float32),
        "eps": 1e-5,
    }


def _cost(sizes: Mapping[str, int]) -> Cost:
    elements = sizes["T"] * sizes["G"] * sizes["D"]
    return Cost(elements * 4 * (4 if sizes["residual"] else 2), 4 * elements)


def _make_a8_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, d = case.sizes["T"], case.sizes["D"]
    return {
        "x": rng.standard_normal((t, d), np.float32),
        "residual": rng.standard_normal((t, d), np.float32) if case.sizes["residual"] else None,
        "weight": rng.standard_normal(d, np.float32),
        "eps": 1e-5,
        **quantized_buffers(t, d),
    }


def _a8_cost(sizes: Mapping[str, int]) -> Cost:
    elements = sizes["T"] * sizes["D"]
    return Cost(elements * (13 if sizes["residual"] else 5), 8 * elements)


SPECS = (
    OpSpec(
        symbol="rms_norm",
        op="rms_norm",
        summary="root mean square normalization, optionally of x + residual",
        tensors=(
            Tensor("x", "f32", ("T", "G", "D")),
            Tensor("residual", "f32", ("T", "G", "D"), "inout", optional=True),
            Tensor("weight", "f32", ("D",)),
            Tensor("out", "f32", ("T", "G", "D"), "out"),
        ),
        scalars=(Scalar("eps", "f64"),),
        variable=("T",),
        source="Zhang & Sennrich 2019, Root Mean Square Layer Normalization",
        cases=tuple(
            Case(name, {"T": t, "G": g, "D": d, "residual": residual, "spread_thousandths": spread})
            for name, t, g, d, residual, spread in (
                ("layer", 5, 1, 96, 0, 3000),
                ("residual", 3, 1, 100, 1, 3000),
                ("heads", 4, 3, 24, 0, 3000),
                ("epsilon_matters", 2, 1, 32, 0, 1),
                ("one", 1, 1, 8, 1, 1000),
                ("no_tokens", 0, 1, 32, 1, 1000),
            )
        ),
        make_inputs=_make_inputs,
        cost=_cost,
    ),
    OpSpec(
        symbol="rms_norm_a8",
        op="rms_norm",
        summary="root mean square normalization, optionally of x + residual, quantized per token",
        tensors=(
            Tensor("x", "f32", ("T", "D")),
            Tensor("residual", "f32", ("T", "D"), "inout", optional=True),
            Tensor("weight", "f32", ("D",)),
            *quantized("D"),
        ),
        scalars=(Scalar("eps", "f64"),),
        variable=("T",),
        source="Zhang & Sennrich 2019; Dettmers et al. 2022, LLM.int8() (section 2.1, absmax)",
        cases=tuple(
            Case(name, {"T": t, "D": d, "residual": residual})
            for name, t, d, residual in (("layer", 5, 96, 0), ("residual", 3, 64, 1), ("no_tokens", 0, 32, 1))
        ),
        make_inputs=_make_a8_inputs,
        cost=_a8_cost,
    ),
)
