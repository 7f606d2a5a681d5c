"""out[t] = row token_ids[t] of a table, in the activation dtype: the same table a tied head multiplies with.

w16: rows in the activation dtype. int8: codes times the row's scale; int4: (code - zero) times the group's scale, packed as
kernels/quant_matmul/gpu_packing.py packs any matrix; in fp32, rounded once. An id below 0 or past the last row, or the last of
a tile of 16 where they come in tiles, is padding: zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kernels.quant_matmul.gpu_packing import GPU_VARIANTS, packed_tensors
from kernels.quant_matmul.gpu_spec import random_weight
from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor

_VARIANTS = ("w16", *GPU_VARIANTS)


def _tensors(variant: str) -> tuple[Tensor, ...]:
    if variant == "w16":
        return (Tensor("weight", "act", ("V", "H")),)
    packed = packed_tensors(variant, "V", "H")
    # Of the vocabulary nothing is left but the number of its tiles.
    return packed if variant == "int8" else tuple(replace(tensor, axes=("tiles", *tensor.axes[1:])) for tensor in packed)


def _spec(variant: str) -> OpSpec:
    def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
        t, h, v = (case.sizes[axis] for axis in "THV")
        token_ids = rng.integers(0, v, t, np.int32)
        # Padding, and an id that is past the end.
        token_ids[1:3] = [-1, -(-v // 16) * 16][: len(token_ids[1:3])]
        out = np.full((t, h + 8), 7, np.float32)[:, :h]
        table = (
            {"weight": rng.standard_normal((v, h), np.float32)} if variant == "w16" else random_weight(rng, variant, v, h, 32)
        )
        return {"token_ids": token_ids, **table, "out": out}

    def cost(sizes: Mapping[str, int]) -> Cost:
        return Cost(sizes["T"] * sizes["H"] * ({"w16": 2, "int8": 1}.get(variant, 0.5) + 2), 0)

    return OpSpec(
        symbol=f"gpu_embedding_{variant}",
        op="embedding",
        summary=f"rows of a {variant} table",
        tensors=(Tensor("token_ids", "i32", ("T",)), *_tensors(variant), Tensor("out", "act", ("T", "H"), "out")),
        scalars=(),
        variable=("T",),
        source="Press & Wolf 2017, Using the Output Embedding to Improve Language Models (tied tables)",
        cases=tuple(
            Case(name, {"T": t, "H": h, "V": v})
            for name, t, h, v in (
                ("some", 7, 96, 50),
                ("several_blocks", 2, 2080, 5),
                ("one", 1, 32, 16),
                ("no_tokens", 0, 32, 16),
            )
        ),
        make_inputs=make_inputs,
        cost=cost,
        backend="gpu",
    )


SPECS = tuple(_spec(variant) for variant in _VARIANTS)
