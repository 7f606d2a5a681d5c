"""out = max(x, 0)^2 in fp32, rounded once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor


def _make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, f = case.sizes["T"], case.sizes["F"]
    return {"x": rng.standard_normal((t, f), np.float32), "out": np.zeros((t, f), np.float32)}


def _cost(sizes: Mapping[str, int]) -> Cost:
    elements = sizes["T"] * sizes["F"]
    return Cost(4 * elements, 2 * elements)


SPECS = (
    OpSpec(
        symbol="gpu_relu_squared",
        op="relu_squared",
        summary="the square of what is above 0",
        tensors=(Tensor("x", "act", ("T", "F")), Tensor("out", "act", ("T", "F"), "out")),
        scalars=(),
        variable=("T",),
        source="So et al. 2021, Primer (section 4)",
        cases=tuple(Case(name, {"T": t, "F": f}) for name, t, f in (("some", 3, 200), ("one", 1, 8), ("no_tokens", 0, 8))),
        make_inputs=_make_inputs,
        cost=_cost,
        backend="gpu",
    ),
)
