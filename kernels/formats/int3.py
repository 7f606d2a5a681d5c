"""int3 in groups of 32: `codes` u8 [N, K] in 0..7, `scales` f16 [N, K/32]; value = scale (code - 4).

On a CPU the low two bits of 16 codes are a word of `codes`, those of k = i from bit 2 i on, and the high bits of 32 codes are a
word of `high_bits`, that of k = i at bit i.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.formats.format import CpuPacking, Decoded, Format, Parts
from kernels.spec import Array, Tensor

#: columns that share a scale
GROUP = 32


def _decode(parts: Parts) -> Decoded:
    return Decoded(parts["codes"].astype(np.int8) - np.int8(4), group_scales=parts["scales"])


def _random(rng: np.random.Generator, values: NDArray[np.float32], group_size: int) -> dict[str, Array]:
    rows, columns = values.shape
    return {
        "codes": rng.integers(0, 8, (rows, columns), np.uint8),
        "scales": (rng.uniform(0.2, 0.6, (rows, columns // GROUP)) / columns**0.5).astype(np.float16),
    }


def _to_rows(parts: Parts) -> dict[str, Array]:
    codes = parts["codes"].astype(np.uint8, copy=False)
    low = codes & np.uint8(3)
    quads = low[:, 0::4] | low[:, 1::4] << np.uint8(2) | low[:, 2::4] << np.uint8(4) | low[:, 3::4] << np.uint8(6)
    high = np.packbits(codes >> np.uint8(2), axis=1, bitorder="little")
    return {**parts, "codes": quads.view("<u4"), "high_bits": high.view("<u4")}


def _from_rows(rows: Parts) -> dict[str, Array]:
    quads, high = (np.ascontiguousarray(rows[name], "<u4").view(np.uint8) for name in ("codes", "high_bits"))
    codes = np.unpackbits(high, axis=1, bitorder="little") << np.uint8(2)
    for place in range(4):
        codes[:, place::4] |= quads >> np.uint8(2 * place) & np.uint8(3)
    return {"codes": codes, "scales": rows["scales"]}


INT3 = Format(
    "int3",
    _decode,
    (
        CpuPacking(
            "int3",
            ("int3",),
            (
                Tensor("codes", "u32", ("N", "K/16")),
                Tensor("high_bits", "u32", ("N", "K/32")),
                Tensor("scales", "f16", ("N", "groups")),
            ),
            _to_rows,
            _from_rows,
            _random,
        ),
    ),
)
