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

// e2m1 codes (OCP MX 1.0): a sign above two bits of exponent and one of fraction.
constexpr int E2M1_TWICE[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// The number whose code is (word >> shift) & 15, in every lane.
inline f32x16 e2m1(i32x16 words, int shift) {
#if defined(__AVX512F__)
    const __m512 table = _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6);
    return {{(vf)_mm512_permutexvar_ps(_mm512_srli_epi32((__m512i)words.part[0], shift), table)}};
#elif defined(__AVX2__)
    const __m256 table = _mm256_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6);
    f32x16 r;
    CF_EACH {
        const __m256i code = _mm256_srli_epi32((__m256i)words.part[p], shift);
        const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(code, _mm256_set1_epi32(8)), 28);
        r.part[p] = (vf)_mm256_or_ps(_mm256_permutevar8x32_ps(table, code), _mm256_castsi256_ps(sign));
    }
    return r;
#else
    float r[LANES];
    uint32_t codes[LANES];
    store(codes, words);
    for (int i = 0; i < LANES; ++i) {
        const int code = codes[i] >> shift & 15;
        r[i] = (code & 8 ? -0.5f : 0.5f) * float(E2M1_TWICE[code & 7]);
    }
    return load(r);
#endif
}

// Byte by byte twice the number whose code it is, plus OFFSET; codes below 16.
template <int OFFSET>
inline i32x16 e2m1_twice(i32x16 codes) {
#if defined(__AVX2__)
    constexpr auto at = [](int code) { return char(E2M1_TWICE[code] + OFFSET); };
    const __m128i table = _mm_setr_epi8(
        at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10), at(11), at(12), at(13), at(14), at(15)
    );
#if defined(__AVX512BW__)
    codes.part[0] = (vi)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), (__m512i)codes.part[0]);
#else
    CF_EACH codes.part[p] = (vi)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), (__m256i)codes.part[p]);
#endif
#else
    uint8_t bytes[LANES * 4];
    std::memcpy(bytes, &codes, sizeof bytes);
    for (uint8_t& byte : bytes) byte = uint8_t(E2M1_TWICE[byte] + OFFSET);
    std::memcpy(&codes, bytes, sizeof bytes);
#endif
    return codes;
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
