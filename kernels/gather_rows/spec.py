"""out[r] = x[rows[r]]: the hidden states of the tokens whose logits are wanted, or what experts read, sorted by expert.

`_a8` and `_a16` gather what quantize_activations wrote: codes, scales and running sums; under `_a16` a token has two rows of
codes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.quantize_activations.spec import quantized_buffers
from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor


def _make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, r, h = (case.sizes[axis] for axis in "TRH")
    return {
        "x": rng.standard_normal((t, h), np.float32),
        "rows": rng.integers(0, max(t, 1), r, np.int32),
        "out": np.zeros((r, h), np.float32),
    }


def _cost(sizes: Mapping[str, int]) -> Cost:
    return Cost(8 * sizes["R"] * sizes["H"], 0)


def _quantized(suffix: str, rows_per_token: int) -> OpSpec:
    def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
        t, r, h = (case.sizes[axis] for axis in "TRH")
        each = rows_per_token
        return {
            "x_codes": rng.integers(-127, 128, (t * each, h)).astype(np.int8),
            "x_scales": rng.uniform(0.1, 1, t).astype(np.float32),
            "x_sums": rng.integers(-999, 999, (t * each, h // 32)).astype(np.int32),
            "rows": rng.integers(0, max(t, 1), r, np.int32),
            **quantized_buffers(r, h, each),
        }

    def rows_of(axis: str) -> str:
        return axis if rows_per_token == 1 else f"{axis}*{rows_per_token}"

    return OpSpec(
        symbol=f"gather_rows_{suffix}",
        op="gather_rows",
        summary="selected tokens of quantized activations",
        tensors=(
            Tensor("x_codes", "i8", (rows_of("T"), "H")),
            Tensor("x_scales", "f32", ("T",)),
            Tensor("x_sums", "i32", (rows_of("T"), "H/32")),
            Tensor("rows", "i32", ("R",)),
            Tensor("codes", "i8", (rows_of("R"), "H"), "out"),
            Tensor("scales", "f32", ("R",), "out"),
            Tensor("sums", "i32", (rows_of("R"), "H/32"), "out"),
        ),
        scalars=(),
        variable=("T", "R"),
        source="a copy: no arithmetic",
        cases=_cases(96),
        make_inputs=make_inputs,
        cost=lambda sizes: Cost(2.25 * rows_per_token * sizes["R"] * sizes["H"], 0),
    )


def _cases(width: int) -> tuple[Case, ...]:
    return tuple(
        Case(name, {"T": t, "R": r, "H": width})
        for name, t, r in (("some", 9, 4), ("one", 1, 1), ("no_rows", 3, 0), ("no_tokens", 0, 0))
    )


SPECS = (
    OpSpec(
        symbol="gather_rows",
        op="gather_rows",
        summary="selected rows of a matrix",
        tensors=(
            Tensor("x", "f32", ("T", "H")),
            Tensor("rows", "i32", ("R",)),
            Tensor("out", "f32", ("R", "H"), "out"),
        ),
        scalars=(),
        variable=("T", "R"),
        source="a copy: no arithmetic",
        cases=_cases(24),
        make_inputs=_make_inputs,
        cost=_cost,
    ),
    _quantized("a8", 1),
    _quantized("a16", 2),
)
