"""Symmetric int8 per token: scale = max |x| / 127, codes = round to nearest even(127 x / max |x|), and sums of codes.

A row whose magnitudes are all below 1e-36 has scale 0 and codes 0. sums[t, b] is the sum of the first 32 (b + 1) codes: the
difference of two of them corrects a group's unsigned dot product for its offset (see quant_matmul).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor


def quantized(width: str) -> tuple[Tensor, ...]:
    """What an op writes whose output, T rows of `width`, is quantized at once."""
    return (
        Tensor("codes", "i8", ("T", width), "out"),
        Tensor("scales", "f32", ("T",), "out"),
        Tensor("sums", "i32", ("T", f"{width}/32"), "out"),
    )


def quantized_buffers(num_tokens: int, width: int) -> Arguments:
    """Arrays for `quantized`, zeros."""
    return {
        "codes": np.zeros((num_tokens, width), np.int8),
        "scales": np.zeros(num_tokens, np.float32),
        "sums": np.zeros((num_tokens, width // 32), np.int32),
    }


def _make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, k = case.sizes["T"], case.sizes["K"]
    x = rng.standard_normal((t, k), np.float32)
    if case.sizes["zero_row"]:
        x[0] = 0
    return {"x": x, **quantized_buffers(t, k)}


def _cost(sizes: Mapping[str, int]) -> Cost:
    elements = sizes["T"] * sizes["K"]
    return Cost(5 * elements + 4 * sizes["T"] + elements / 8, 4 * elements)


SPECS = (
    OpSpec(
        symbol="quantize_activations",
        op="quantize_activations",
        summary="int8 codes, scale and running sums of each token",
        tensors=(
            Tensor("x", "f32", ("T", "K")),
            *quantized("K"),
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
