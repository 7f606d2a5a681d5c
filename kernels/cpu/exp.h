// Exponentials of sixteen lanes.
#pragma once
#include "vec.h"

namespace cf {

// e^x within 2 ulp for x in [-87, 88]; 0 below, e^88 above. x = n ln 2 + r, |r| <= ln 2 / 2, and e^r is its Taylor
// polynomial of degree 7, whose remainder there is 5e-9.
inline f32x16 exp(f32x16 x) {
    const f32x16 lowest = broadcast(-87.0f), magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds
    f32x16 y = min(max(x, lowest), broadcast(88.0f));
    f32x16 shifted = fma(y, broadcast(1.44269504f), magic);
    f32x16 n = shifted - magic;
    f32x16 r = fma(n, broadcast(-0.693145752f), y);  // ln 2 in two parts: the first has 12 trailing zero bits
    r = fma(n, broadcast(-1.42860677e-6f), r);
    f32x16 e = broadcast(1.0f / 5040);
    const float coefficients[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    for (float c : coefficients) e = fma(e, r, broadcast(c));
    f32x16 power = from_bits((bits(shifted) + broadcast(int32_t(127))) << 23);
    return zero_below(e * power, x, lowest);
}

// tanh x within 4 ulp. Of |x|: below 5/8 x plus x^3 times a polynomial in x^2, the one of degree 4 with the least squares of
// relative error there, 5e-9 at most; from there on 1 - 2 / (1 + e^2x), which cancels no more than a bit.
inline f32x16 tanh(f32x16 x) {
    const f32x16 y = abs(x), limit = broadcast(0.625f), low = min(y, limit), square = low * low;
    f32x16 p = broadcast(-0.00570404f);
    const float coefficients[] = {0.02063786f, -0.05373916f, 0.13331432f, -0.33333281f};
    for (float c : coefficients) p = fma(p, square, broadcast(c));
    const f32x16 small = fma(low * square, p, low), power = exp(y + y) + broadcast(1.0f);
    const f32x16 large = fma(broadcast(-2.0f), reciprocal(power), broadcast(1.0f));
    const f32x16 size = small + zero_below(large - small, y, limit);
    return zero_below(size + size, x, zero()) - size;
}

// x within (-bound, bound): bound tanh(x / bound).
inline f32x16 capped(f32x16 x, float bound) { return broadcast(bound) * tanh(x / broadcast(bound)); }

// 2^x within 1.1e-4 of itself for x in [-100, 1], 1 at 0, and 0 below -100 and of a NaN: for what is rounded to bf16 next.
// x = n + r, |r| <= 1/2, and 2^r is the polynomial of degree 3 with the least relative error there that is 1 at 0.
inline f32x16 exp2_for_bf16(f32x16 x) {
    const float coefficients[] = {0.24221097f, 0.69328290f, 1.0f};
    const f32x16 lowest = broadcast(-100.0f);
#if defined(__AVX512F__)
    const __m512 n = _mm512_roundscale_ps((__m512)x.part[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const f32x16 r = x - f32x16{{(vf)n}};
#else
    const f32x16 magic = broadcast(12582912.0f), shifted = x + magic, r = x - (shifted - magic);
#endif
    f32x16 e = broadcast(0.055008933f);
    for (float c : coefficients) e = fma(e, r, broadcast(c));
#if defined(__AVX512F__)
    const __mmask16 counts = _mm512_cmp_ps_mask((__m512)x.part[0], (__m512)lowest.part[0], _CMP_GE_OQ);
    return {{(vf)_mm512_maskz_scalef_ps(counts, (__m512)e.part[0], n)}};
#else
    return zero_below(e * from_bits((bits(shifted) + broadcast(int32_t(127))) << 23), x, lowest);
#endif
}

}  // namespace cf
