"""out[r] = x[rows[r]]: hidden states of tokens whose logits are wanted. Rows below 0 or past the last are padding: zeros."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor


def _make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, r, h = (case.sizes[axis] for axis in "TRH")
    rows = rng.integers(0, max(t, 1), r, np.int32)
    # Padding, and an index that would be past the end.
    rows[1:3] = [-1, t][: len(rows[1:3])]
    out = np.full((r, h + 8), 7, np.float32)[:, :h]
    return {"x": rng.standard_normal((t, h + 8), np.float32)[:, :h], "rows": rows, "out": out}


def _cost(sizes: Mapping[str, int]) -> Cost:
    return Cost(4 * sizes["R"] * sizes["H"], 0)


SPECS = (
    OpSpec(
        symbol="gpu_gather_rows",
        op="gather_rows",
        summary="selected rows of a matrix",
        tensors=(
            Tensor("x", "act", ("T", "H")),
            Tensor("rows", "i32", ("R",)),
            Tensor("out", "act", ("R", "H"), "out"),
        ),
        scalars=(),
        variable=("T", "R"),
        source="a copy: no arithmetic",
        cases=tuple(
            Case(name, {"T": t, "R": r, "H": h})
            for name, t, r, h in (
                ("some", 9, 5, 24),
                ("several_blocks", 4, 2, 2056),
                ("one", 1, 1, 8),
                ("no_rows", 3, 0, 24),
                ("no_tokens", 0, 0, 24),
            )
        ),
        make_inputs=_make_inputs,
        cost=_cost,
        backend="gpu",
    ),
)
