"""out[r] = x[rows[r]]: the hidden states of the tokens whose logits are wanted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

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
        cases=tuple(
            Case(name, {"T": t, "R": r, "H": 24})
            for name, t, r in (("some", 9, 4), ("one", 1, 1), ("no_rows", 3, 0), ("no_tokens", 0, 0))
        ),
        make_inputs=_make_inputs,
        cost=_cost,
    ),
)
