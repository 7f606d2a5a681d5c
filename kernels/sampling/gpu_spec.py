"""The next token of each row of logits, drawn on the device.

A row's distribution: logits above temperature, then min_p (tokens at least so likely, relative to the most likely), then top_k
of those, then of those the smallest set of the most likely that holds top_p of their mass; equally likely tokens come in order
of their ids. 0 turns top_k and min_p off, 1 top_p; a temperature below 1e-6 is greedy, the first of the largest logits (a
padded row's temperature is 0). These are the definitions and the order of runtime/sampler.py, so greedy rows agree with it
token by token, and others in which tokens can be drawn; which of them is drawn differs, as the noise does.

The draw is Gumbel-max: argmax of logit / temperature - ln(E_i), with E_i = -ln(1 - (word + 1/2) / 2^32) and word i % 4 of
Philox4x32-10 under the row's seed as key and (i / 4, position, 0, 0) as counter. It depends on the seed, the token's position
and the row, never on the batch. Logits are finite or -inf, which is never drawn, and not all of them -inf.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor

#: (temperature, top_k, top_p, min_p) of the rows of a case, in turn.
_FILTERS: Mapping[str, tuple[tuple[float, int, float, float], ...]] = {
    "greedy": ((0.0, 0, 1.0, 0.0), (0.0, 3, 0.5, 0.1)),
    "plain": ((1.0, 0, 1.0, 0.0), (0.5, 0, 1.0, 0.0), (2.0, 0, 1.0, 0.0)),
    "min_p": ((1.0, 0, 1.0, 0.1), (2.0, 0, 1.0, 0.3), (1.0, 0, 1.0, 1.0)),
    "top_k": ((1.0, 1, 1.0, 0.0), (1.5, 5, 1.0, 0.0), (3.0, 12, 1.0, 0.0), (1.0, 1000000, 1.0, 0.0)),
    "top_p": ((1.0, 0, 0.5, 0.0), (2.0, 0, 0.9, 0.0), (1.0, 0, 0.01, 0.0)),
    "together": ((1.5, 8, 0.8, 0.02), (10.0, 10, 0.12, 0.0), (2.0, 3, 0.95, 0.3)),
    "flat": ((1.0, 0, 0.9, 0.0), (1.0, 11000, 1.0, 0.0)),
    "crowded": ((1.0, 2000, 1.0, 0.0), (1.0, 0, 0.3, 0.0)),
}


def _make_sample_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    r, v = case.sizes["R"], case.sizes["V"]
    name = case.name.removesuffix("_ties").removesuffix("_wide")
    rows = [_FILTERS[name][row % len(_FILTERS[name])] for row in range(r)] if name in _FILTERS else [(1.0, 0, 1.0, 0.0)] * r
    wide = rng.standard_normal((r, v + 8), np.float32) * np.float32(case.sizes["spread_thousandths"] / 1000)
    logits = (wide.round() if case.sizes["ties"] else wide)[:, :v]
    logits[:, 1::7] = -np.inf
    columns = list(zip(*rows, strict=True)) or [()] * 4
    return {
        "logits": logits,
        "temperatures": np.array(columns[0], np.float32),
        "top_ks": np.array(columns[1], np.int32),
        "top_ps": np.array(columns[2], np.float32),
        "min_ps": np.array(columns[3], np.float32),
        "seeds": rng.integers(0, 2**63, r, np.int64),
        "positions": rng.integers(0, 2**17, r, np.int32),
        "token_ids": np.full(r, -7, np.int32),
    }


def _sample_cost(sizes: Mapping[str, int]) -> Cost:
    return Cost(4 * sizes["R"] * sizes["V"], 40 * sizes["R"] * sizes["V"])


SPECS = (
    OpSpec(
        symbol="gpu_sample",
        op="sampling",
        summary="the next token of each row of logits",
        tensors=(
            Tensor("logits", "f32", ("R", "V")),
            Tensor("temperatures", "f32", ("R",)),
            Tensor("top_ks", "i32", ("R",)),
            Tensor("top_ps", "f32", ("R",)),
            Tensor("min_ps", "f32", ("R",)),
            Tensor("seeds", "i64", ("R",)),
            Tensor("positions", "i32", ("R",)),
            Tensor("token_ids", "i32", ("R",), "out"),
        ),
        scalars=(),
        variable=("R",),
        source="Salmon et al. 2011, Parallel Random Numbers: As Easy as 1, 2, 3 (Philox); Holtzman et al. 2020 (top-p); "
        "Gumbel 1954 (Gumbel-max)",
        cases=tuple(
            Case(name, {"R": r, "V": v, "spread_thousandths": spread, "ties": ties})
            for name, r, v, spread, ties in (
                ("greedy", 2, 100, 3000, 0),
                ("greedy_ties", 2, 100, 1000, 1),
                ("plain", 3, 100, 1000, 0),
                ("plain_wide", 1, 9001, 1000, 0),
                ("min_p", 3, 100, 1000, 0),
                ("top_k", 4, 100, 2000, 0),
                ("top_k_ties", 4, 100, 2000, 1),
                ("top_p", 3, 100, 2000, 0),
                ("together", 3, 100, 2000, 0),
                ("together_wide", 3, 9001, 2000, 0),
                ("flat", 2, 14000, 100, 0),
                ("crowded_ties", 2, 14000, 100, 1),
                ("one", 1, 1, 1000, 0),
                ("no_rows", 0, 100, 1000, 0),
            )
        ),
        make_inputs=_make_sample_inputs,
        cost=_sample_cost,
        backend="gpu",
    ),
)
