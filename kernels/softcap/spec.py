"""x = softcap tanh(x / softcap), in place: logits that never exceed softcap."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Arguments, Case, Cost, OpSpec, Scalar, Tensor

SOURCE = "Bello et al. 2017, Neural Combinatorial Optimization with RL (appendix A.1); Gemma Team 2024, Gemma 2 (section 2)"


def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, v, spread = (case.sizes[name] for name in ("T", "V", "spread"))
    x = rng.standard_normal((t, v + 8), np.float32) * np.float32(spread)
    return {"x": x[:, :v], "softcap": case.sizes["softcap"]}


def cost(sizes: Mapping[str, int]) -> Cost:
    elements = sizes["T"] * sizes["V"]
    return Cost(8 * elements, 12 * elements)


CASES = tuple(
    Case(name, {"T": t, "V": v, "spread": spread, "softcap": softcap})
    for name, t, v, spread, softcap in (
        ("some", 5, 40, 30, 30),
        ("several_blocks", 2, 2100, 20, 30),
        ("small", 3, 33, 1, 50),
        ("extreme", 2, 40, 3000, 1),
        ("one", 1, 7, 10, 5),
        ("no_tokens", 0, 8, 1, 30),
    )
)

SPECS = (
    OpSpec(
        symbol="softcap",
        op="softcap",
        summary="logits within a bound",
        tensors=(Tensor("x", "f32", ("T", "V"), "inout"),),
        scalars=(Scalar("softcap", "f64"),),
        variable=("T",),
        source=SOURCE,
        cases=CASES,
        make_inputs=make_inputs,
        cost=cost,
    ),
)
