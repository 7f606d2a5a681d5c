"""int4-twolevel: `codes` u8 [N, K] in 0..15, `steps` u8 [N, K/16] in 0..15, `scales` f32 [N]; value = scale step (code - 8).

On a CPU codes are words of eight as in int4, and the steps of two groups share a byte, the first in the low
nibble. docs/decisions/0026-two-levels.md has the reasons.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.formats.format import CpuPacking, Decoded, Format, Parts
from kernels.formats.int4 import from_words, to_words
from kernels.spec import Array, Tensor

#: columns that share a step
GROUP = 16


def integers(parts: Parts) -> Array:
    """step (code - 8), i8 [N, K]: at most 120."""
    codes = parts["codes"].astype(np.int8) - np.int8(8)
    return np.asarray(codes * np.repeat(parts["steps"].astype(np.int8), GROUP, axis=1))


def _decode(parts: Parts) -> Decoded:
    return Decoded(integers(parts), row_scales=parts["scales"])


def _random(rng: np.random.Generator, values: NDArray[np.float32], group_size: int) -> dict[str, Array]:
    rows, columns = values.shape
    return {
        "codes": rng.integers(0, 16, (rows, columns), np.uint8),
        "steps": rng.integers(1, 16, (rows, columns // GROUP), np.uint8),
        "scales": (rng.uniform(0.01, 0.03, rows) / columns**0.5).astype(np.float32),
    }


def _to_rows(parts: Parts) -> dict[str, Array]:
    steps = parts["steps"].astype(np.uint8, copy=False)
    return {**parts, "codes": to_words(parts["codes"]), "steps": steps[:, 0::2] | (steps[:, 1::2] << np.uint8(4))}


def _from_rows(rows: Parts) -> dict[str, Array]:
    pairs = rows["steps"].astype(np.uint8, copy=False)
    steps = np.stack([pairs & np.uint8(15), pairs >> np.uint8(4)], axis=2).reshape(len(pairs), 2 * pairs.shape[1])
    return {**rows, "codes": from_words(rows["codes"]), "steps": steps}


INT4_TWO_LEVEL = Format(
    "int4-twolevel",
    _decode,
    (
        CpuPacking(
            "int4_twolevel",
            ("int4_twolevel", "int4_twolevel_a8"),
            (Tensor("codes", "u32", ("N", "K/8")), Tensor("steps", "u8", ("N", "K/32")), Tensor("scales", "f32", ("N",))),
            _to_rows,
            _from_rows,
            _random,
        ),
    ),
)
