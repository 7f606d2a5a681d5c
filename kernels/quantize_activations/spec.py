"""Symmetric int8 per token: scale = max |x| / 127, codes = round to nearest even(127 x / max |x|), and sums of codes.

`quantize_activations_a16` writes 16-bit codes of at most 127 * 256 instead, in two rows of bytes: 256 times the first plus the
second, each with its sums.

A row whose magnitudes are all below 1e-36 has scale 0 and codes 0. sums[t, b] is the sum of the first 32 (b + 1) codes: the
difference of two of them corrects a group's unsigned dot product for its offset (see quant_matmul).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor


def quantized(width: str, rows: str = "T") -> tuple[Tensor, ...]:
    """What an op writes whose output, T rows of `width`, is quantized at once, to so many rows of bytes."""
    return (
        Tensor("codes", "i8", (rows, width), "out"),
        Tensor("scales", "f32", ("T",), "out"),
        Tensor("sums", "i32", (rows, f"{width}/32"), "out"),
    )


def quantized_buffers(num_tokens: int, width: int, rows_per_token: int = 1) -> Arguments:
    """Arrays for `quantized`, zeros."""
    return {
        "codes": np.zeros((num_tokens * rows_per_token, width), np.int8),
        "scales": np.zeros(num_tokens, np.float32),
        "sums": np.zeros((num_tokens * rows_per_token, width // 32), np.int32),
    }


def _spec(suffix: str, rows_per_token: int, summary: str) -> OpSpec:
    def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
        t, k = case.sizes["T"], case.sizes["K"]
        x = rng.standard_normal((t, k), np.float32)
        if case.sizes["zero_row"]:
            x[0] = 0
        return {"x": x, **quantized_buffers(t, k, rows_per_token)}

    def cost(sizes: Mapping[str, int]) -> Cost:
        elements = sizes["T"] * sizes["K"]
        return Cost((4 + 1.125 * rows_per_token) * elements + 4 * sizes["T"], 4 * elements)

    return OpSpec(
        symbol=f"quantize_activations{suffix}",
        op="quantize_activations",
        summary=summary,
        tensors=(Tensor("x", "f32", ("T", "K")), *quantized("K", "T" if rows_per_token == 1 else f"T*{rows_per_token}")),
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
        make_inputs=make_inputs,
        cost=cost,
    )


SPECS = (
    _spec("", 1, "int8 codes, scale and running sums of each token"),
    _spec("_a16", 2, "int16 codes in two bytes, scale and running sums of each token"),
)
