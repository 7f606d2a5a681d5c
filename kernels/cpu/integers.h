// Arithmetic on packed integers: bytes and nibbles in 32-bit lanes, and dot products of them.
#pragma once
#include "vec.h"

namespace cf {

// Byte by byte, modulo 256.
inline i32x16 subtract_bytes(i32x16 a, i32x16 b) {
#if defined(__AVX512BW__)
    a.part[0] = (vi)_mm512_sub_epi8((__m512i)a.part[0], (__m512i)b.part[0]);
#else
    typedef int8_t bytes __attribute__((vector_size(WIDTH * 4)));
    CF_EACH a.part[p] = (vi)((bytes)a.part[p] - (bytes)b.part[p]);
#endif
    return a;
}

// Byte by byte a b, b the same in all four bytes of a lane; products below 256.
inline i32x16 multiply_bytes(i32x16 a, i32x16 b) {
    // No product reaches the next byte, so 16-bit multiplications give two at once.
#if defined(__AVX512BW__)
    a.part[0] = (vi)_mm512_mullo_epi16((__m512i)a.part[0], _mm512_and_si512((__m512i)b.part[0], _mm512_set1_epi16(0xff)));
#else
    typedef int16_t shorts __attribute__((vector_size(WIDTH * 4)));
    CF_EACH a.part[p] = (vi)((shorts)a.part[p] * (shorts)(b.part[p] & 0x00ff00ff));
#endif
    return a;
}

// float((word >> shift) & 15) - 8 in every lane.
inline f32x16 nibble_minus_8(i32x16 words, int shift) {
#if defined(__AVX512F__)
    const __m512 table = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    return {{(vf)_mm512_permutexvar_ps(_mm512_srli_epi32((__m512i)words.part[0], shift), table)}};
#else
    return to_float(((words >> shift) & broadcast(15)) - broadcast(8));
#endif
}

// acc + sum over the four bytes of each lane of unsigned a times signed x; exact (never saturates).
inline i32x16 dot4(i32x16 acc, i32x16 a, i32x16 x) {
#if defined(__AVX512VNNI__)
    acc.part[0] = (vi)_mm512_dpbusd_epi32((__m512i)acc.part[0], (__m512i)a.part[0], (__m512i)x.part[0]);
#elif defined(__AVX512BW__)
    const __m512i low = _mm512_set1_epi16(0xff), w = (__m512i)a.part[0], v = (__m512i)x.part[0];
    __m512i even = _mm512_madd_epi16(_mm512_and_si512(w, low), _mm512_srai_epi16(_mm512_slli_epi16(v, 8), 8));
    __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(w, 8), _mm512_srai_epi16(v, 8));
    acc.part[0] += (vi)even + (vi)odd;
#elif defined(__AVX2__)
    const __m256i low = _mm256_set1_epi16(0xff);
    CF_EACH {
        __m256i w = (__m256i)a.part[p], v = (__m256i)x.part[p];
        __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, low), _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8));
        __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(v, 8));
        acc.part[p] += (vi)even + (vi)odd;
    }
#else
    CF_EACH for (int byte = 0; byte < 4; ++byte)
        acc.part[p] += ((a.part[p] >> (8 * byte)) & 0xff) * ((x.part[p] << (24 - 8 * byte)) >> 24);
#endif
    return acc;
}

// acc + a x, exact, for one pair of integers to a lane: a in 0..32767, x in 16 bits.
inline i32x16 multiply_add(i32x16 acc, i32x16 a, i32x16 x) {
#if defined(__AVX512VNNI__)
    acc.part[0] = (vi)_mm512_dpwssd_epi32((__m512i)acc.part[0], (__m512i)a.part[0], (__m512i)x.part[0]);
#elif defined(__AVX512BW__)
    acc.part[0] += (vi)_mm512_madd_epi16((__m512i)a.part[0], (__m512i)x.part[0]);
#elif defined(__AVX2__)
    CF_EACH acc.part[p] += (vi)_mm256_madd_epi16((__m256i)a.part[p], (__m256i)x.part[p]);
#else
    acc = acc + a * x;
#endif
    return acc;
}

}  // namespace cf
