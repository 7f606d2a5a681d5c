"""Small floats in numpy: fp8 e4m3, and e2m1 codes under a power of two (e8m0) for every 32 of K, which is MXFP4, or under an
e4m3 scale for every 16 of K and an fp32 one for the tensor, which is NVFP4.

e4m3 codes lie row-major on the GPU. MXFP4 as published has codes u8 [N, K/2], k even in the low nibble, and
scales u8 [N, K/32]; `pack_mxfp4` puts both into the order in which the threads of a matrix instruction hold 16 rows x 64 of K:

    codes u32 [N/16, K/64, row % 8, k/2 % 4, k/32 % 2, row/8 % 2], in half k % 2 of a word the slot 2 (k/16 % 2) + k/8 % 2
    scales u32 [N/16, K/64, row % 8], the byte 2 (k/32 % 2) + row/8 % 2 of a word

NVFP4 has codes in the same order, and scales u8 [N, K/16] as u32 [N/16, K/64, row % 8, k/16 % 2], the same bytes in a word. A
byte is e4m3's number with five bits of exponent and no sign, so that none is subnormal: 2^(byte // 8 - 10) (1 + byte % 8 / 8).
Its bits and a constant are then the multiplier in bf16 or f16. Zero has no such number: its codes are stored as zeros.

Sources: Micikevicius et al. 2022, FP8 Formats for Deep Learning; OCP Microscaling Formats (MX) specification 1.0; NVIDIA 2025,
Pretraining Large Language Models with NVFP4 (section 2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.refusal import Refusal

E4M3_MAX = 448.0
E2M1_MAX = 6.0
#: The exponent of the largest power of two that e2m1 holds, 4.
_E2M1_EXPONENT = 2
_E8M0_BIAS = 127
#: Values that a scale of MXFP4 covers.
MX_WIDTH = 32
#: Values that an e4m3 scale of NVFP4 covers.
NV_WIDTH = 16
#: Kernels multiply codes by their scale over this, and sums by this: the scale and what the place of a code's bits divides by,
#: 2^126, are one number of bf16.
SHRINK = 128.0
#: A larger scale of MXFP4 than 2^8 would not be one.
_MAX_SCALE_CODE = 135
#: The code of e4m3's largest number; those above are NaN or negative.
_E4M3_MAX_CODE = 0x7E
_MIN_TENSOR_EXPONENT = -100
#: Where four e2m1 codes lie in 16 bits: (bit of the sign, lowest bit of the rest), in the first two as far apart as in bf16.
MX_SLOTS = ((15, 6), (12, 3), (14, 0), (13, 9))
#: [half, slot] of a word.
_SIGN_BITS, _REST_BITS = (np.array([bits, [16 + bit for bit in bits]], np.uint32) for bits in zip(*MX_SLOTS, strict=True))

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]


def encode_e4m3(values: Floats) -> Bytes:
    """Codes of the nearest e4m3 numbers, ties to even; saturates at 448, NaN stays NaN."""
    codes = _encode(values, mantissa_bits=3, bias=7, largest=E4M3_MAX) | (np.signbit(values).astype(np.uint8) << 7)
    return np.where(np.isnan(values), np.uint8(0x7F), codes)


def decode_e4m3(codes: Bytes) -> Floats:
    return _E4M3.take(codes)


def encode_mxfp4(values: Floats) -> tuple[Bytes, Bytes]:
    """Codes u8 [N, K/2] and scales u8 [N, K/32] of finite `values` [N, K]; ValueError where K is not a multiple of 32.

    As the specification's section 6.3: the scale is the power of two of the group's largest magnitude over that of e2m1's
    largest; what then exceeds 6 saturates.
    """
    rows, width = values.shape
    if width % MX_WIDTH:
        raise Refusal(
            f"a scale of MXFP4 covers {MX_WIDTH} values: K must be a multiple of it, got {width}; pad K or choose int4"
        )
    groups = values.reshape(rows, width // MX_WIDTH, MX_WIDTH)
    scales = mxfp4_scales(np.abs(groups).max(axis=2))
    scaled = np.ldexp(groups, _E8M0_BIAS - scales[:, :, None].astype(np.int32)).reshape(rows, width)
    return pair_nibbles(encode_e2m1(scaled)), scales


def mxfp4_scales(largest: Floats) -> Bytes:
    """e8m0 codes for groups whose largest magnitudes are `largest`."""
    exponent = np.frexp(largest)[1] - 1 - _E2M1_EXPONENT
    codes: Bytes = (exponent + _E8M0_BIAS).clip(0, 254).astype(np.uint8)
    return codes


def encode_e2m1(values: Floats) -> Bytes:
    """Codes 0 to 15 of the nearest e2m1 numbers, ties to even; saturates at 6."""
    magnitudes = _encode(values, mantissa_bits=1, bias=1, largest=E2M1_MAX)
    return np.where(np.signbit(values), magnitudes | np.uint8(8), magnitudes)


def decode_e2m1(codes: Bytes) -> Floats:
    return _E2M1.take(codes)


def pair_nibbles(codes: Bytes) -> Bytes:
    """Codes of four bits [N, K] as bytes [N, K/2], k even in the low nibble."""
    return codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4))


def split_nibbles(pairs: Bytes) -> Bytes:
    """Bytes [N, K/2] as codes of four bits [N, K], the low nibble first."""
    return np.stack((pairs & np.uint8(15), pairs >> np.uint8(4)), axis=-1).reshape(len(pairs), 2 * pairs.shape[1])


def decode_e8m0(codes: Bytes) -> Floats:
    """Powers of two; 255 is NaN."""
    powers: Floats = np.where(codes == 255, np.float32(np.nan), np.ldexp(np.float32(1), codes.astype(np.int32) - _E8M0_BIAS))
    return powers


def pack_mxfp4(codes: Bytes, scales: Bytes) -> tuple[Words, Words]:
    """Codes [N, K/2] and scales [N, K/32] in the kernel's order, new arrays, rows and K padded with zeros.

    ValueError where a scale is larger than 2^8, or NaN.
    """
    if scales.size and scales.max() > _MAX_SCALE_CODE:
        raise Refusal(
            f"a scale of MXFP4 must be at most {_MAX_SCALE_CODE} (2^8), got {scales.max()}; leave such a matrix unquantized"
        )
    # [tile, row / 8, row % 8, chunk, k / 32]
    ordered = _padded(scales, 2).transpose(0, 3, 2, 4, 1)
    return _code_words(codes), np.ascontiguousarray(ordered).reshape(*ordered.shape[:3], 4).view("<u4")[..., 0]


def unpack_mxfp4(words: Words, scale_words: Words, rows: int, width: int) -> tuple[Bytes, Bytes]:
    """What `pack_mxfp4` made of a matrix [rows, width]: its codes and scales, bit for bit."""
    ordered = _scale_bytes(scale_words).reshape(*scale_words.shape, 2, 2)
    scales = ordered.transpose(0, 4, 2, 1, 3).reshape(len(words) * 16, -1)
    return _codes(words, rows, width), np.ascontiguousarray(scales[:rows, : width // MX_WIDTH])


def nvfp4_tensor_scale(largest: float) -> np.float32:
    """The fp32 scale of a matrix whose largest magnitude is `largest`: the least power of two under which scales reach it.

    NVIDIA's recipe divides by 6 x 448 and keeps the quotient. A power of two is the same choice without its rounding: local
    scales lie at most one binade lower, where e4m3 is as fine, and multiplying or dividing by it is exact, so readers that
    hold the scale and readers that hold its reciprocal have the same numbers.
    """
    fraction, exponent = np.frexp(np.float64(largest) / (E2M1_MAX * E4M3_MAX))
    power = exponent - (1 if fraction == 0.5 else 0)
    # Far below, products with a subnormal local scale would leave fp32's normal numbers.
    return np.float32(np.ldexp(1.0, max(int(power), _MIN_TENSOR_EXPONENT)) if fraction else 1.0)


def nvfp4_scales(largest: Floats, tensor_scale: np.float32) -> Bytes:
    """e4m3 codes for groups whose largest magnitudes are `largest`: that of e2m1's largest, nearest, ties to even."""
    return encode_e4m3(largest / np.float32(E2M1_MAX) / tensor_scale)


def pack_nvfp4(codes: Bytes, scales: Bytes) -> tuple[Words, Words]:
    """Codes [N, K/2] and scales [N, K/16] in the kernel's order, new arrays, rows and K padded with zeros.

    Codes under a scale of zero become zero, as their values are. ValueError where a scale is negative or NaN.
    """
    if scales.size and scales.max() > _E4M3_MAX_CODE:
        raise Refusal(
            f"a scale of NVFP4 must be a number from 0 to 448, got the e4m3 code {scales.max():#x}; leave such a matrix "
            "unquantized"
        )
    # [tile, row / 8, row % 8, chunk, k / 32, k / 16 % 2]
    padded = _padded(_NORMALIZED.take(scales), 4)
    ordered = padded.reshape(*padded.shape[:4], 2, 2).transpose(0, 3, 2, 5, 4, 1)
    tiles, chunks = ordered.shape[:2]
    effective = np.where(np.repeat(scales == 0, NV_WIDTH // 2, axis=1), np.uint8(0), codes)
    return _code_words(effective), np.ascontiguousarray(ordered).reshape(tiles, chunks, 16, 4).view("<u4")[..., 0]


def unpack_nvfp4(words: Words, scale_words: Words, rows: int, width: int) -> tuple[Bytes, Bytes]:
    """What `pack_nvfp4` made of a matrix [rows, width]: its scales, and its codes but for those under zero, bit for bit."""
    tiles, chunks = scale_words.shape[:2]
    ordered = _scale_bytes(scale_words).reshape(tiles, chunks, 8, 2, 2, 2)
    scales = ordered.transpose(0, 5, 2, 1, 4, 3).reshape(tiles * 16, -1)
    codes = np.searchsorted(_NORMALIZED, scales[:rows, : width // NV_WIDTH]).astype(np.uint8)
    return _codes(words, rows, width), codes


def _code_words(codes: Bytes) -> Words:
    """Codes u8 [N, K/2] in the order of fragments."""
    rows, width = codes.shape[0], codes.shape[1] * 2
    tiles, chunks = -(-rows // 16), -(-width // 64)
    nibbles = np.zeros((tiles * 16, chunks * 64), np.uint32)
    nibbles[:rows, 0:width:2], nibbles[:rows, 1:width:2] = codes & 15, codes >> 4
    # [tile, row / 8, row % 8, chunk, k / 32, k / 16, k / 8, k / 2, k % 2]
    parts = nibbles.reshape(tiles, 2, 8, chunks, 2, 2, 2, 4, 2).transpose(0, 3, 2, 7, 4, 1, 8, 5, 6)
    halves = parts.reshape(tiles, chunks, 128, 2, 4)
    words: Words = ((halves >> 3) << _SIGN_BITS | (halves & 7) << _REST_BITS).sum(axis=(3, 4), dtype=np.uint32)
    return words


def _codes(words: Words, rows: int, width: int) -> Bytes:
    """The first `rows` and `width` codes of `_code_words`, two in a byte."""
    tiles, chunks = words.shape[:2]
    halves = words[..., None, None]
    nibbles = (((halves >> _SIGN_BITS) & 1) << 3 | ((halves >> _REST_BITS) & 7)).astype(np.uint8)
    # [tile, chunk, row % 8, k/2 % 4, k/32, row/8, k % 2, k/16 % 2, k/8 % 2]
    ordered = nibbles.reshape(tiles, chunks, 8, 4, 2, 2, 2, 2, 2).transpose(0, 5, 2, 1, 4, 7, 8, 3, 6)
    return pair_nibbles(ordered.reshape(tiles * 16, chunks * 64)[:rows, :width])


def _padded(scales: Bytes, per_chunk: int) -> Bytes:
    """scales u8 [N, .] as [tile, row / 8, row % 8, chunk, per_chunk], with zeros where there are none."""
    tiles, chunks = -(-scales.shape[0] // 16), -(-scales.shape[1] // per_chunk)
    padded = np.zeros((tiles * 16, chunks * per_chunk), np.uint8)
    padded[: scales.shape[0], : scales.shape[1]] = scales
    return padded.reshape(tiles, 2, 8, chunks, per_chunk)


def _scale_bytes(words: Words) -> Bytes:
    """The bytes of u32 words, the lowest first, along a new axis."""
    return np.ascontiguousarray(words, "<u4").view(np.uint8).reshape(*words.shape, 4)


def _encode(values: Floats, mantissa_bits: int, bias: int, largest: float) -> Bytes:
    """Codes of the magnitudes: the exponent stands above the mantissa, so one that rounds up carries into it."""
    magnitude = np.minimum(np.nan_to_num(np.abs(values), posinf=largest), np.float32(largest))
    exponent = np.where(magnitude > 0, np.maximum(np.frexp(magnitude)[1] - 1, 1 - bias), 1 - bias)
    steps = np.rint(np.ldexp(magnitude, mantissa_bits - exponent)).astype(np.int32)
    codes: Bytes = (((exponent + bias - 1) << mantissa_bits) + steps).astype(np.uint8)
    return codes


def _decoded(mantissa_bits: int, bias: int, bits: int) -> Floats:
    """The value of every code of a format without infinities."""
    codes = np.arange(2**bits)
    magnitude = codes % 2 ** (bits - 1)
    field, mantissa = magnitude >> mantissa_bits, magnitude % 2**mantissa_bits
    steps = np.where(field > 0, mantissa + 2**mantissa_bits, mantissa)
    sign = np.where(codes >= 2 ** (bits - 1), -1.0, 1.0)
    values: Floats = (sign * np.ldexp(steps.astype(np.float64), np.maximum(field, 1) - bias - mantissa_bits)).astype(np.float32)
    return values


_E4M3 = _decoded(mantissa_bits=3, bias=7, bits=8)
_E4M3[[0x7F, 0xFF]] = np.nan
_E2M1 = _decoded(mantissa_bits=1, bias=1, bits=4)


def _normalized() -> Bytes:
    """For each e4m3 code from 0 to 448 the byte that NVFP4's kernel takes; they ascend."""
    fraction, exponent = np.frexp(_E4M3[: _E4M3_MAX_CODE + 1])
    codes: Bytes = np.where(fraction > 0, (exponent + 9) * 8 + fraction * 16 - 8, 0).astype(np.uint8)
    return codes


_NORMALIZED = _normalized()
