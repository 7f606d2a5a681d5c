"""Quantized matrices W[N, K] as the GPU kernels read them, made once when a bundle is built.

Logical parts -> packed parts:

    int8         codes i8 [N, K], scales f32 [N]          the same
    int4         codes u8 [N, K] in 0..15,                codes u32 [N/16, K/64, 128],
                 scales f16 [N, K/G],                     scales f16 [N/16, K/G, 16],
                 zeros u8 [N, K/G] if asymmetric          zeros u32 [N/16, K/G, 8]

Rows are padded to 16 and columns to 64 with zeros. In a tile of 16 x 64 codes, word ((4 r + t) 2 + c) 2 + s belongs to row
8 s + r, and its bits 16 b + 4 i .. + 3 hold column 32 c + 8 i + 2 t + b: what lane 4 r + t of a warp multiplies with, in the
fragments of a 16 x 16 matrix instruction (PTX ISA, mma.m16n8k16 and wgmma, operand A). One load of 16 bytes is 32 codes of one
lane. Scale 2 r + s is that of row 8 s + r; zeros of rows r and 8 + r are the low and high half of word r.
docs/decisions/0007-int4-layout.md has the reasons.

The value of an int4 code is scale (code - zero), and zero is 8 where it is symmetric.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Array, Tensor

TILE_ROWS = 16
TILE_COLUMNS = 64

#: What `gpu_quant_matmul_` symbols end in.
GPU_VARIANTS = ("int8", "int4_sym", "int4_asym")


def packed_tensors(variant: str, n: str, k: str) -> tuple[Tensor, ...]:
    """The packed parts of a matrix as tensors of an op, for its axes of rows and columns."""
    if variant == "int8":
        return Tensor("codes", "i8", (n, k)), Tensor("scales", "f32", (n,))
    tiles = f"{n}/{TILE_ROWS}"
    codes = Tensor("codes", "u32", (tiles, f"{k}/{TILE_COLUMNS}", 128))
    scales = Tensor("scales", "f16", (tiles, "groups", TILE_ROWS))
    zeros = Tensor("zeros", "u32", (tiles, "groups", TILE_ROWS // 2))
    return (codes, scales, zeros) if variant == "int4_asym" else (codes, scales)


def pack(parts: Mapping[str, Array], weights: str) -> dict[str, Array]:
    """The packed parts of the logical ones of an "int8" or "int4" matrix, new arrays."""
    if weights == "int8":
        return {"codes": parts["codes"].copy(), "scales": parts["scales"].copy()}
    packed = {"codes": _words(parts["codes"]), "scales": _paired(parts["scales"])}
    if "zeros" in parts:
        packed["zeros"] = _paired(parts["zeros"].astype("<u2")).view("<u4")
    return packed


def unpack(packed: Mapping[str, Array], weights: str, num_rows: int, num_columns: int) -> dict[str, Array]:
    """The inverse of `pack`; N and K are what padding hides."""
    if weights == "int8":
        return {"codes": packed["codes"].copy(), "scales": packed["scales"].copy()}
    parts = {"codes": _codes(packed["codes"])[:num_rows, :num_columns].copy(), "scales": _unpaired(packed["scales"], num_rows)}
    if "zeros" in packed:
        parts["zeros"] = _unpaired(np.ascontiguousarray(packed["zeros"]).view("<u2"), num_rows).astype(np.uint8)
    return parts


def _padded(matrix: Array, columns: int = 1) -> Array:
    """`matrix` with zeros up to whole tiles of 16 rows and `columns` columns."""
    return np.pad(matrix, ((0, -matrix.shape[0] % TILE_ROWS), (0, -matrix.shape[1] % columns)))


def _words(codes: Array) -> Array:
    """u8 [N, K] -> u32 [N/16, K/64, 128]."""
    padded = _padded(np.asarray(codes, np.uint8), TILE_COLUMNS)
    tiles, chunks = padded.shape[0] // TILE_ROWS, padded.shape[1] // TILE_COLUMNS
    # tile, s, r, chunk, c, i, t, b -> tile, chunk, r, t, c, s, b, i
    ordered = padded.reshape(tiles, 2, 8, chunks, 2, 4, 4, 2).transpose(0, 3, 2, 6, 4, 1, 7, 5)
    low, high = np.ascontiguousarray(ordered, np.uint8).reshape(-1, 2).T
    octets: Array = np.bitwise_or(low, np.left_shift(high, np.uint8(4)))
    return octets.view("<u4").reshape(tiles, chunks, 128)


def _codes(words: Array) -> Array:
    """The inverse of `_words`, padding included."""
    tiles, chunks, _ = words.shape
    octets = np.ascontiguousarray(words).view(np.uint8)
    nibbles = np.stack((octets & np.uint8(15), octets >> np.uint8(4)), axis=-1)
    ordered = nibbles.reshape(tiles, chunks, 8, 4, 2, 2, 2, 4).transpose(0, 5, 2, 1, 4, 7, 3, 6)
    return ordered.reshape(tiles * TILE_ROWS, chunks * TILE_COLUMNS)


def _paired(matrix: Array) -> Array:
    """[N, groups] -> [N/16, groups, 16]: rows r and 8 + r side by side."""
    padded = _padded(matrix)
    tiles, groups = padded.shape[0] // TILE_ROWS, padded.shape[1]
    return np.ascontiguousarray(padded.reshape(tiles, 2, 8, groups).transpose(0, 3, 2, 1)).reshape(tiles, groups, TILE_ROWS)


def _unpaired(paired: Array, num_rows: int) -> Array:
    """The inverse of `_paired`."""
    tiles, groups, _ = paired.shape
    rows = paired.reshape(tiles, groups, 8, 2).transpose(0, 3, 2, 1).reshape(tiles * TILE_ROWS, groups)
    return np.ascontiguousarray(rows[:num_rows])
