"""e2m1 codes, two in a byte: `codes` u8 [N, K/2], k even in the low nibble. On GPUs alone (kernels/scaled_matmul/packing.py).

mxfp4 has `scales` u8 [N, K/32], e8m0; nvfp4 has `scales` u8 [N, K/16], e4m3, and `row_scales` f32 [N], the scale of the tensor
that a row is of, one each where matrices are joined; value = row_scale scale e2m1(code).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kernels.formats.format import Decoded, Format, GpuPacking, Parts
from kernels.scaled_matmul.packing import (
    MX_WIDTH,
    NV_WIDTH,
    Bytes,
    Words,
    decode_e2m1,
    decode_e4m3,
    decode_e8m0,
    pack_mxfp4,
    pack_nvfp4,
    split_nibbles,
    unpack_mxfp4,
    unpack_nvfp4,
)
from kernels.scaled_matmul.variants import VARIANTS
from kernels.spec import Array


def _decode_mxfp4(parts: Parts) -> Decoded:
    return Decoded(decode_e2m1(_nibbles(parts)), decode_e8m0(parts["scales"].astype(np.uint8)), width=MX_WIDTH)


def _decode_nvfp4(parts: Parts) -> Decoded:
    scales = decode_e4m3(parts["scales"].astype(np.uint8))
    return Decoded(decode_e2m1(_nibbles(parts)), scales, parts["row_scales"], NV_WIDTH)


def _nibbles(parts: Parts) -> Bytes:
    return split_nibbles(parts["codes"].astype(np.uint8))


def _pack_mxfp4(parts: Parts) -> dict[str, Array]:
    codes, scales = pack_mxfp4(parts["codes"].astype(np.uint8), parts["scales"].astype(np.uint8))
    return {"codes": codes, "scales": scales}


def _unpack_mxfp4(tensors: Parts, num_rows: int, num_columns: int) -> dict[str, Array]:
    codes, scales = unpack_mxfp4(*_words(tensors), num_rows, num_columns)
    return {"codes": codes, "scales": scales}


def _pack_nvfp4(parts: Parts) -> dict[str, Array]:
    codes, scales = pack_nvfp4(parts["codes"].astype(np.uint8), parts["scales"].astype(np.uint8))
    return {**parts, "codes": codes, "scales": scales}


def _unpack_nvfp4(tensors: Parts, num_rows: int, num_columns: int) -> dict[str, Array]:
    codes, scales = unpack_nvfp4(*_words(tensors), num_rows, num_columns)
    return {**tensors, "codes": codes, "scales": scales}


def _words(tensors: Parts) -> tuple[Words, Words]:
    return tensors["codes"].astype(np.uint32), tensors["scales"].astype(np.uint32)


def _format(
    name: str,
    decode: Callable[[Parts], Decoded],
    pack: Callable[[Parts], dict[str, Array]],
    unpack: Callable[[Parts, int, int], dict[str, Array]],
) -> Format:
    symbol = f"gpu_scaled_matmul_{name}"
    gpu = GpuPacking(name, VARIANTS[symbol].tensors[1:], symbol, pack, unpack)
    return Format(name, decode, gpu=(gpu,), codes_per_byte=2)


MXFP4 = _format("mxfp4", _decode_mxfp4, _pack_mxfp4, _unpack_mxfp4)
NVFP4 = _format("nvfp4", _decode_nvfp4, _pack_nvfp4, _unpack_nvfp4)
