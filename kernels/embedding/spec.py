"""out[t] = row token_ids[t] of a packed table, dequantized: the same table a tied head multiplies with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.formats.format import CpuPacking
from kernels.formats.table import FORMATS
from kernels.quant_matmul.spec import random_weight
from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor

_CASES = tuple(
    Case(name, {"T": t, "H": h, "V": v, "G": 32})
    for name, t, h, v in (("some", 7, 96, 50), ("one", 1, 32, 16), ("no_tokens", 0, 32, 16))
)


def _spec(layout: CpuPacking) -> OpSpec:
    def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
        t, h, v = (case.sizes[axis] for axis in "THV")
        table = random_weight(rng, layout.products[0], v, h, case.sizes["G"])
        return {**table, "token_ids": rng.integers(0, v, t, np.int32), "out": np.zeros((t, h), np.float32)}

    def cost(sizes: Mapping[str, int]) -> Cost:
        return Cost(sizes["T"] * sizes["H"] * (layout.bits(sizes.get("G", 0)) / 8 + 4), 0)

    return OpSpec(
        symbol=f"embedding_{layout.name}",
        op="embedding",
        summary=f"rows of a packed {layout.name} table",
        tensors=(
            Tensor("token_ids", "i32", ("T",)),
            *layout.tiled("tiles", "H"),
            Tensor("out", "f32", ("T", "H"), "out"),
        ),
        scalars=(),
        variable=("T",),
        source="Press & Wolf 2017, Using the Output Embedding to Improve Language Models (tied tables)",
        cases=_CASES,
        make_inputs=make_inputs,
        cost=cost,
    )


SPECS = tuple(_spec(layout) for row in FORMATS.values() for layout in row.cpu)
