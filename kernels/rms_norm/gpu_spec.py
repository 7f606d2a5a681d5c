"""out = x / sqrt(mean(x^2) + eps) * weight over the last axis, in fp32; x, residual and out in the model's activation dtype.

With a residual: residual = x + residual, rounded once, and that rounded sum is normalized, so that what later layers read is
what this one normalized. G groups of D per token: 1 for a layer norm, the number of heads for QK-norm on a view of the qkv
buffer; `out` may be `x`. The quantizing entry points normalize [T, D], and write codes and scales of the fp32 result, which is
not rounded in between (see kernels/quantize_activations/gpu_spec.py for the rule).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.quantize_activations.output import QUANTIZED, Form
from kernels.spec import Arguments, Case, Cost, OpSpec, Scalar, Tensor

_CASES = tuple(
    Case(name, {"T": t, "G": g, "D": d, "residual": residual, "spread_thousandths": spread})
    for name, t, g, d, residual, spread in (
        ("layer", 5, 1, 96, 0, 3000),
        ("residual", 3, 1, 104, 1, 3000),
        ("heads", 4, 3, 24, 0, 3000),
        ("epsilon_matters", 2, 1, 32, 0, 1),
        ("one", 1, 1, 8, 1, 1000),
        ("no_tokens", 0, 1, 32, 1, 1000),
    )
)
_QUANTIZED_CASES = tuple(
    Case(name, {"T": t, "D": d, "residual": residual})
    for name, t, d, residual in (
        ("several_blocks", 3, 200, 0),
        ("residual", 2, 136, 1),
        ("one", 1, 8, 1),
        ("no_tokens", 0, 32, 1),
    )
)


def _make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, g, d = (case.sizes[axis] for axis in "TGD")
    # Heads lie side by side in a wider row, as they do in the qkv buffer.
    wide = rng.standard_normal((t, g + (g > 1), d), np.float32) * np.float32(case.sizes["spread_thousandths"] / 1000)
    return {
        "x": wide[:, :g],
        "residual": rng.standard_normal((t, g, d), np.float32) if case.sizes["residual"] else None,
        "weight": rng.standard_normal(d, np.float32),
        "out": np.zeros((t, g, d), np.float32),
        "eps": 1e-5,
    }


def _make_quantized_inputs(form: Form, rng: np.random.Generator, case: Case) -> Arguments:
    t, d = case.sizes["T"], case.sizes["D"]
    return {
        "x": rng.standard_normal((t, d + 8), np.float32)[:, :d],
        "residual": rng.standard_normal((t, d), np.float32) if case.sizes["residual"] else None,
        "weight": rng.standard_normal(d, np.float32),
        **form.buffers(t, d),
        "eps": 1e-5,
    }


def _cost(sizes: Mapping[str, int]) -> Cost:
    elements = sizes["T"] * sizes["G"] * sizes["D"]
    return Cost(elements * 2 * (4 if sizes["residual"] else 2), 4 * elements)


def _quantized_cost(sizes: Mapping[str, int]) -> Cost:
    elements = sizes["T"] * sizes["D"]
    return Cost(elements * (7 if sizes["residual"] else 3), 6 * elements)


def _quantizing(form: Form) -> OpSpec:
    return OpSpec(
        symbol=f"gpu_rms_norm{form.suffix}",
        op="rms_norm",
        summary=f"root mean square normalization, optionally of x + residual, as {form.dtype} codes scaled by {form.scaling}",
        tensors=(
            Tensor("x", "act", ("T", "D")),
            Tensor("residual", "act", ("T", "D"), "inout", optional=True),
            Tensor("weight", "f32", ("D",)),
            *form.tensors("D"),
        ),
        scalars=(Scalar("eps", "f64"),),
        variable=("T",),
        source="Zhang & Sennrich 2019, Root Mean Square Layer Normalization",
        cases=_QUANTIZED_CASES,
        make_inputs=lambda rng, case: _make_quantized_inputs(form, rng, case),
        cost=_quantized_cost,
        backend="gpu",
    )


SPECS = (
    OpSpec(
        symbol="gpu_rms_norm",
        op="rms_norm",
        summary="root mean square normalization, optionally of x + residual",
        tensors=(
            Tensor("x", "act", ("T", "G", "D")),
            Tensor("residual", "act", ("T", "G", "D"), "inout", optional=True),
            Tensor("weight", "f32", ("D",)),
            Tensor("out", "act", ("T", "G", "D"), "out"),
        ),
        scalars=(Scalar("eps", "f64"),),
        variable=("T",),
        source="Zhang & Sennrich 2019, Root Mean Square Layer Normalization",
        cases=_CASES,
        make_inputs=_make_inputs,
        cost=_cost,
        backend="gpu",
    ),
    *(_quantizing(form) for form in QUANTIZED),
)
