"""stream = stream + factor x, in place: a branch joins the residual stream where no norm takes it in.

`scaled_sum`: stream = scale (stream + x), or scale stream where there is no x; the scale is a number of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Arguments, Case, Cost, OpSpec, Scalar, Tensor

SOURCE = "He et al. 2016, Deep Residual Learning; IBM 2024, Granite 3.0 (residual_multiplier)"


def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, d = case.sizes["T"], case.sizes["D"]
    return {
        "stream": rng.standard_normal((t, d), np.float32),
        "x": rng.standard_normal((t, d + 8), np.float32)[:, :d],
        "factor": case.sizes["factor_thousandths"] / 1000,
    }


def make_sum_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    made = make_inputs(rng, case)
    scale = np.array([made.pop("factor")], np.float32)
    return made | {"x": None if case.name == "alone" else made["x"], "scale": scale}


def cost(sizes: Mapping[str, int], element_bytes: int = 4) -> Cost:
    elements = sizes["T"] * sizes["D"]
    return Cost(3 * element_bytes * elements, 2 * elements)


CASES = tuple(
    Case(name, {"T": t, "D": d, "factor_thousandths": factor})
    for name, t, d, factor in (
        ("some", 5, 40, 220),
        ("several_blocks", 2, 2100, 18),
        ("plain", 3, 33, 1000),
        ("one", 1, 7, 5000),
        ("no_tokens", 0, 8, 220),
    )
)

SPECS = (
    OpSpec(
        symbol="scaled_add",
        op="scaled_add",
        summary="the residual stream plus a multiple of a branch",
        tensors=(Tensor("stream", "f32", ("T", "D"), "inout"), Tensor("x", "f32", ("T", "D"))),
        scalars=(Scalar("factor", "f64"),),
        variable=("T",),
        source=SOURCE,
        cases=CASES,
        make_inputs=make_inputs,
        cost=cost,
    ),
    OpSpec(
        symbol="scaled_sum",
        op="scaled_add",
        summary="a multiple of the residual stream and a branch",
        tensors=(
            Tensor("stream", "f32", ("T", "D"), "inout"),
            Tensor("x", "f32", ("T", "D"), optional=True),
            Tensor("scale", "f32", (1,)),
        ),
        scalars=(),
        variable=("T",),
        source="Google 2026, Gemma 4 (layer_scalar)",
        cases=(*CASES, Case("alone", {"T": 4, "D": 50, "factor_thousandths": 730})),
        make_inputs=make_sum_inputs,
        cost=cost,
    ),
)
