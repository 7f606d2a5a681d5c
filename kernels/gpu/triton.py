"""Device functions that kernels share: how numbers become int8 and e4m3 codes.

    codes, scale = quantize(x, DTYPE, axis)    one scale for each row along `axis` of an f32 block
    scale, inverse = scale_of(amax, DTYPE)     the same in two steps, where a row does not fit into one block:
    codes = encode(x * inverse, DTYPE)         first the largest |x|, then the codes
    codes = round_to_int8(x)                   f32 -> i8, half to even, saturating at +-127
    codes = round_to_e4m3(x)                   f32 -> e4m3, half to even, saturating at +-448
    x = within_f16(x)                          f32, saturating at the largest f16; a NaN stays one
    store_columns(...)                         part of a row, in whichever form the entry point writes (see below)

DTYPE is tl.int8 or tl.float8e4nv, as `codes_ptr.dtype.element_ty` gives it. The rule, in fp32: amax = max(largest |x|, 1e-10),
scale = amax / 127 (e4m3: 448), inverse = 127 (448) / amax, code = round(x * inverse). Both divisions round to nearest, so a
reference in torch gives the same bits; a row of zeros has the scale of 1e-10 and codes of zero. A NaN has no code: it
saturates or not as the device does.

Triton has no e4m3 type below sm_89, so neither has anything here: `refusal` of an op that writes it says so.
"""

import triton
import triton.language as tl

#: The interpreter's own conversion to e4m3 is wrong in 1 to 2 % of values, so there the rounding is done on the bits.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

#: Columns that share a scale where SCALING is "block".
SCALE_BLOCK = tl.constexpr(128)


@triton.jit
def within_f16(x):
    return tl.where(x > 65504.0, 65504.0, tl.where(x < -65504.0, -65504.0, x))


@triton.jit
def round_to_int8(x):
    # Next to 1.5 * 2^23 floats are one apart: the addition rounds, and leaves the integer in the low bits of the sum.
    return (tl.clamp(x, -127.0, 127.0) + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)


@triton.jit
def e4m3_from_bits(x):
    """What the hardware's conversion gives for |x| <= 448, by integer arithmetic."""
    bits = x.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    # 20 of 23 fraction bits go, half to even, and the exponent's bias from 127 to 7.
    normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - (120 << 3)
    # Below 2^-6 codes are 2^-9 apart, as floats are next to 2^14.
    subnormal = (tl.abs(x) + 16384.0).to(tl.int32, bitcast=True) & 0xF
    code = tl.where(magnitude < 0x3C800000, subnormal, normal) | ((bits >> 24) & 0x80)
    return code.to(tl.uint8).to(tl.float8e4nv, bitcast=True)


@triton.jit
def round_to_e4m3(x):
    clamped = tl.clamp(x, -448.0, 448.0)
    if INTERPRETED:
        return e4m3_from_bits(clamped)
    else:
        return clamped.to(tl.float8e4nv)


@triton.jit
def encode(x, DTYPE: tl.constexpr):
    if DTYPE.is_int8():
        return round_to_int8(x)
    else:
        return round_to_e4m3(x)


@triton.jit
def scale_of(amax, DTYPE: tl.constexpr):
    amax = tl.maximum(amax, 1e-10)
    limit = tl.zeros_like(amax) + (127.0 if DTYPE.is_int8() else 448.0)
    return tl.div_rn(amax, limit), tl.div_rn(limit, amax)


@triton.jit
def quantize(x, DTYPE: tl.constexpr, axis: tl.constexpr):
    scale, inverse = scale_of(tl.max(tl.abs(x), axis=axis), DTYPE)
    return encode(x * tl.expand_dims(inverse, axis), DTYPE), scale


@triton.jit
def store_columns(x, first, WIDTH: tl.constexpr, out_ptr, scales_ptr, scales_at, SCALING: tl.constexpr, BLOCK: tl.constexpr):
    """Writes x, f32 [BLOCK], zero past the row's end, as columns `first` onwards of the row at `out_ptr`.

    SCALING: "none" rounds to out's dtype; the others write codes: "row" with one scale to scales[scales_at], x being the whole
    row; "block" with a scale for every 128 columns, the last of which may be fewer, from there on; "tensor" with the scale at
    scales_ptr.
    """
    columns = first + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    DTYPE: tl.constexpr = out_ptr.dtype.element_ty
    if SCALING == "none":
        values = x.to(DTYPE)
    elif SCALING == "row":
        values, scale = quantize(x, DTYPE, 0)
        tl.store(scales_ptr + scales_at, scale)
    elif SCALING == "block":
        codes, scales = quantize(tl.reshape(x, (BLOCK // SCALE_BLOCK, SCALE_BLOCK)), DTYPE, 1)
        values = tl.reshape(codes, (BLOCK,))
        blocks = first // SCALE_BLOCK + tl.arange(0, BLOCK // SCALE_BLOCK)
        tl.store(scales_ptr + scales_at + blocks, scales, mask=blocks * SCALE_BLOCK < WIDTH)
    else:
        tl.static_assert(SCALING == "tensor")
        values = encode(x * tl.div_rn(1.0, tl.load(scales_ptr)), DTYPE)
    tl.store(out_ptr + columns, values, mask=inside)
