"""The packed weight layouts (docs/architecture.md): row tiles of 16 output channels, rows padded with zeros to fill them.

Logical parts of a matrix W[N, K] -> packed parts:

    fp32, bf16   weight [N, K]                            weight [N/16, K, 16]
    int8         codes i8 [N, K], scales f32 [N]          codes i8 [N/16, K, 16] (a8, a16: u8 [N/16, K/4, 16, 4], value + 128),
                                                          scales [N/16, 16]
    int4         codes u8 [N, K] in 0..15,                codes u32 [N/16, K/8, 16], scales [N/16, K/G, 16],
                 scales f16 [N, K/G],                     zeros [N/16, K/G, 16]
                 zeros u8 [N, K/G] if asymmetric
    int4_twolevel codes u8 [N, K] in 0..15,               codes u32 [N/16, K/8, 16], steps u8 [N/16, K/32, 16], of two groups
                 steps u8 [N, K/16] in 0..15,             each: the first in the low nibble, scales [N/16, 16]
                 scales f32 [N]

The value of an int4 code is scale (code - zero), and zero is 8 where it is symmetric. Under int4_twolevel it is
scale step (code - 8).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Array, Tensor

LANES = 16
#: columns of K that share a step under int4_twolevel
TWO_LEVEL_GROUP = 16

#: What `quant_matmul_` and `embedding_` symbols end in.
VARIANTS = (
    *("fp32", "bf16", "int8", "int8_a8", "int8_a16", "int4_sym", "int4_asym", "int4_sym_a8", "int4_asym_a8"),
    *("int4_twolevel", "int4_twolevel_a8"),
)


def variant(weights: str, symmetric: bool = True, int8_activations: bool = False, int16_activations: bool = False) -> str:
    """The name in VARIANTS of a scheme."""
    name = f"int4_{'sym' if symmetric else 'asym'}" if weights == "int4" else weights.replace("-", "_")
    name += "_a8" if int8_activations else "_a16" if int16_activations else ""
    if name not in VARIANTS:
        raise ValueError(f"no kernel takes {name}; there are {', '.join(VARIANTS)}")
    return name


def packed_tensors(variant: str, tiles: str, k: str) -> tuple[Tensor, ...]:
    """The packed parts of a matrix as tensors of an op, for its axis of row tiles and its axis of K."""
    if variant in ("fp32", "bf16"):
        return (Tensor("weight", {"fp32": "f32", "bf16": "bf16"}[variant], (tiles, k, LANES)),)
    if variant == "int8":
        return Tensor("codes", "i8", (tiles, k, LANES)), Tensor("scales", "f32", (tiles, LANES))
    if variant in ("int8_a8", "int8_a16"):
        return Tensor("codes", "u8", (tiles, f"{k}/4", LANES, 4)), Tensor("scales", "f32", (tiles, LANES))
    codes = Tensor("codes", "u32", (tiles, f"{k}/8", LANES))
    if variant.startswith("int4_twolevel"):
        return codes, Tensor("steps", "u8", (tiles, f"{k}/32", LANES)), Tensor("scales", "f32", (tiles, LANES))
    scales = Tensor("scales", "f16", (tiles, "groups", LANES))
    zeros = Tensor("zeros", "u8", (tiles, "groups", LANES))
    return (codes, scales, zeros) if "asym" in variant else (codes, scales)


def pack(parts: Mapping[str, Array], weights: str, int8_activations: bool = False) -> dict[str, Array]:
    """The packed parts of the logical ones, new arrays. ValueError where K does not suit the layout."""
    if weights in ("fp32", "bf16"):
        return {"weight": _tiled(parts["weight"])}
    codes = parts["codes"]
    multiple = {"int4": 8, "int4-twolevel": 32, "int8": 4 if int8_activations else 1}[weights]
    if codes.shape[1] % multiple:
        raise ValueError(f"{weights} codes pack {multiple} to a word: K must be a multiple of it, got {codes.shape[1]}")
    if weights == "int4":
        packed = {"codes": _tiled(_words(codes)), "scales": _tiled(parts["scales"])}
        return packed | ({"zeros": _tiled(parts["zeros"])} if "zeros" in parts else {})
    scales = _tiled(parts["scales"][:, None])[:, 0]
    if weights == "int4-twolevel":
        steps = parts["steps"].astype(np.uint8, copy=False)
        pairs = steps[:, 0::2] | (steps[:, 1::2] << 4)
        return {"codes": _tiled(_words(codes)), "steps": _tiled(pairs), "scales": scales}
    if not int8_activations:
        return {"codes": _tiled(codes), "scales": scales}
    unsigned = (codes.view(np.uint8) ^ np.uint8(128)).view("<u4")  # four k in a word, each code + 128
    return {"codes": _tiled(unsigned).view(np.uint8).reshape(-1, codes.shape[1] // 4, LANES, 4), "scales": scales}


def unpack(packed: Mapping[str, Array], weights: str, num_rows: int, int8_activations: bool = False) -> dict[str, Array]:
    """The inverse of `pack`; `num_rows` is N, which padding hides."""
    if weights in ("fp32", "bf16"):
        return {"weight": _untiled(packed["weight"], num_rows)}
    codes = packed["codes"]
    if weights == "int4":
        logical = {"codes": _nibbles(_untiled(codes, num_rows)), "scales": _untiled(packed["scales"], num_rows)}
        return logical | ({"zeros": _untiled(packed["zeros"], num_rows)} if "zeros" in packed else {})
    scales = packed["scales"].reshape(-1)[:num_rows]
    if weights == "int4-twolevel":
        pairs = _untiled(packed["steps"], num_rows).astype(np.uint8, copy=False)
        steps = np.stack([pairs & 15, pairs >> 4], axis=2).reshape(num_rows, -1)
        return {"codes": _nibbles(_untiled(codes, num_rows)), "steps": steps, "scales": scales}
    if not int8_activations:
        return {"codes": _untiled(codes, num_rows), "scales": scales}
    words = _untiled(np.ascontiguousarray(codes).view("<u4")[..., 0], num_rows)
    return {"codes": (words.view(np.uint8) ^ np.uint8(128)).view(np.int8), "scales": scales}


def _tiled(matrix: Array) -> Array:
    """[N, K] -> [N/16, K, 16], rows padded with zeros."""
    rows, columns = matrix.shape
    tiles = np.zeros((-(-rows // LANES), columns, LANES), matrix.dtype)
    whole = rows // LANES
    tiles[:whole] = matrix[: whole * LANES].reshape(whole, LANES, columns).transpose(0, 2, 1)
    if rows % LANES:
        tiles[whole, :, : rows % LANES] = matrix[whole * LANES :].T
    return tiles


def _untiled(tiles: Array, num_rows: int) -> Array:
    """[N/16, K, 16] -> [N, K]."""
    count, columns, _ = tiles.shape
    return np.ascontiguousarray(tiles.transpose(0, 2, 1).reshape(count * LANES, columns)[:num_rows])


def _words(codes: Array) -> Array:
    """u8 codes [N, K] -> u32 [N, K/8]: byte j has k = j in its low nibble and k = j + 4 in its high one."""
    quads = np.ascontiguousarray(codes, np.uint8).view("<u4")
    return np.asarray(quads[:, 0::2] | (quads[:, 1::2] << np.uint32(4)))


def _nibbles(words: Array) -> Array:
    """The inverse of `_words`."""
    pairs = words.astype(np.uint32, copy=False)
    quads = np.empty((words.shape[0], words.shape[1] * 2), "<u4")
    quads[:, 0::2] = pairs & np.uint32(0x0F0F0F0F)
    quads[:, 1::2] = (pairs >> np.uint32(4)) & np.uint32(0x0F0F0F0F)
    return quads.view(np.uint8)
