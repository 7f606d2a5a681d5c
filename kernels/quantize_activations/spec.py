"""Symmetric int8 per token: scale = max |x| / 127, codes = round to nearest even(x / scale), and sums of codes per 32.

A row of zeros has scale 0 and codes 0. The sums correct unsigned dot products for their offset (see quant_matmul).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor


def _make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, k = case.sizes["T"], case.sizes["K"]
    x = rng.standard_normal((t, k), np.float32)
    if case.sizes["zero_row"]:
        x[0] = 0
    return {
        "x": x,
        "codes": np.zeros((t, k), np.int8),
        "scales": np.zeros(t, np.float32),
        "sums": np.zeros((t, k // 32), np.int32),
    }


def _cost(sizes: Mapping[str, int]) -> Cost:
    elements = sizes["T"] * sizes["K"]
    return Cost(5 * elements + 4 * sizes["T"] + elements / 8, 4 * elements)


SPECS = (
    OpSpec(
        symbol="quantize_activations",
        op="quantize_activations",
        summary="int8 codes, scale and block sums of each token",
        tensors=(
            Tensor("x", "f32", ("T", "K")),
            Tensor("codes", "i8", ("T", "K"), "out"),
            Tensor("scales", "f32", ("T",), "out"),
            Tensor("sums", "i32", ("T", "K/32"), "out"),
        ),
        scalars=(),
        variable=("T",),
        source="Dettmers et al. 2022, LLM.int8() (section 2.1, absmax)",
        cases=tuple(
            Case(name, {"T": t, "K": k, "zero_row": zero})
            for name, t, k, zero in (
                ("some", 5, 96, 0),
                ("zero_row", 3, 64, 1),
                ("one", 1, 32, 0),
                ("no_tokens", 0, 32, 0),
            )
        ),
        make_inputs=_make_inputs,
        cost=_cost,
    ),
)
