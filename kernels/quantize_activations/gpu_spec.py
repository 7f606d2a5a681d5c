"""Codes and scales of activations, for the matrix units: of a tensor that no kernel quantizes while it writes it.

The rule, in fp32, for a token (int8, e4m3) or for each 128 columns of one (e4m3_block; the last block may be shorter):
amax = max(largest |x|, 1e-10), scale = amax / L, codes = round to nearest even(x * (L / amax)), with L = 127 for int8 and 448,
the largest number, for e4m3. e4m3_tensor is given its scale: codes = round(x * (1 / scale)), saturating.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.quantize_activations.output import QUANTIZED, Form
from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor


def _make_inputs(form: Form, rng: np.random.Generator, case: Case) -> Arguments:
    t, k = case.sizes["T"], case.sizes["K"]
    x = (rng.standard_normal((t, k + 16), np.float32) * np.float32(3))[:, :k]
    if case.sizes["zero_row"]:
        x[0] = 0
    return {"x": x, **form.buffers(t, k)}


def _cost(sizes: Mapping[str, int]) -> Cost:
    return Cost(sizes["T"] * (3 * sizes["K"] + 4), 3 * sizes["T"] * sizes["K"])


def _spec(form: Form) -> OpSpec:
    return OpSpec(
        symbol=f"gpu_quantize_activations{form.suffix}",
        op="quantize_activations",
        summary=f"{form.dtype} codes of activations, scaled by {form.scaling}",
        tensors=(Tensor("x", "act", ("T", "K")), *form.tensors("K")),
        scalars=(),
        variable=("T",),
        source="Micikevicius et al. 2022, FP8 Formats for Deep Learning; DeepSeek-AI 2024, DeepSeek-V3 (section 3.3.2)",
        cases=tuple(
            Case(name, {"T": t, "K": k, "zero_row": zero})
            for name, t, k, zero in (
                ("several_blocks", 3, 2184, 0),
                ("zero_row", 3, 64, 1),
                ("one", 1, 8, 0),
                ("no_tokens", 0, 32, 0),
            )
        ),
        make_inputs=lambda rng, case: _make_inputs(form, rng, case),
        cost=_cost,
        backend="gpu",
    )


SPECS = tuple(_spec(form) for form in QUANTIZED)
