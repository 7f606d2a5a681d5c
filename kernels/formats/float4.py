"""e2m1 codes, two in a byte: `codes` u8 [N, K/2], k even in the low nibble.

mxfp4 has `scales` u8 [N, K/32], e8m0; nvfp4 has `scales` u8 [N, K/16], e4m3, and `row_scales` f32 [N], the scale of the tensor
that a row is of, one each where matrices are joined; value = row_scale scale e2m1(code). On GPUs they lie as
kernels/scaled_matmul/packing.py says. On a CPU, which has no kernels for nvfp4, codes are words of eight as in int4.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kernels.formats.format import CpuPacking, Decoded, Format, GpuPacking, Parts
from kernels.formats.int4 import from_words, to_words
from kernels.refusal import Refusal
from kernels.scaled_matmul.packing import (
    MX_WIDTH,
    NV_WIDTH,
    Bytes,
    Words,
    decode_e2m1,
    decode_e4m3,
    decode_e8m0,
    encode_mxfp4,
    pack_mxfp4,
    pack_nvfp4,
    pair_nibbles,
    split_nibbles,
    unpack_mxfp4,
    unpack_nvfp4,
)
from kernels.scaled_matmul.variants import VARIANTS
from kernels.spec import Array, Tensor

#: Six times a larger scale of mxfp4 is no fp32 number.
_MAX_SCALE_CODE = 252


def _decode_mxfp4(parts: Parts) -> Decoded:
    return Decoded(decode_e2m1(_nibbles(parts)), decode_e8m0(parts["scales"].astype(np.uint8)), width=MX_WIDTH)


def _decode_nvfp4(parts: Parts) -> Decoded:
    scales = decode_e4m3(parts["scales"].astype(np.uint8))
    return Decoded(decode_e2m1(_nibbles(parts)), scales, parts["row_scales"], NV_WIDTH)


def _nibbles(parts: Parts) -> Bytes:
    return split_nibbles(parts["codes"].astype(np.uint8))


def _mxfp4_to_rows(parts: Parts) -> dict[str, Array]:
    scales = parts["scales"].astype(np.uint8, copy=False)
    if scales.size and scales.max() > _MAX_SCALE_CODE:
        raise Refusal(
            f"a scale of MXFP4 must be at most {_MAX_SCALE_CODE} (2^125), got {scales.max()}; leave such a matrix unquantized"
        )
    return {"codes": to_words(_nibbles(parts)), "scales": scales}


def _mxfp4_from_rows(rows: Parts) -> dict[str, Array]:
    return {"codes": pair_nibbles(from_words(rows["codes"]).astype(np.uint8, copy=False)), "scales": rows["scales"]}


def _random_mxfp4(rng: np.random.Generator, values: NDArray[np.float32], group_size: int) -> dict[str, Array]:
    codes, scales = encode_mxfp4(values)
    return {"codes": codes, "scales": scales}


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
    *cpu: CpuPacking,
) -> Format:
    symbol = f"gpu_scaled_matmul_{name}"
    gpu = GpuPacking(name, VARIANTS[symbol].tensors[1:], symbol, pack, unpack, experts=name)
    return Format(name, decode, cpu, (gpu,), codes_per_byte=2)


MXFP4 = _format(
    "mxfp4",
    _decode_mxfp4,
    _pack_mxfp4,
    _unpack_mxfp4,
    CpuPacking(
        "mxfp4",
        ("mxfp4", "mxfp4_a8"),
        (Tensor("codes", "u32", ("N", "K/8")), Tensor("scales", "u8", ("N", f"K/{MX_WIDTH}"))),
        _mxfp4_to_rows,
        _mxfp4_from_rows,
        _random_mxfp4,
        codes_per_byte=2,
    ),
)
NVFP4 = _format("nvfp4", _decode_nvfp4, _pack_nvfp4, _unpack_nvfp4)
