// Sixteen-lane vectors, held as as many native registers as the instruction set needs: one with AVX-512, two with
// AVX2, four elsewhere. A struct of native parts rather than one 64-byte vector type, which compilers keep in memory
// where no register is that wide. Arithmetic is the compilers' vector extension; intrinsics stand only where the
// extension has no word for it (widening loads, table lookup, dot products).
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace cf {

constexpr int LANES = 16;
#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#elif defined(__AVX2__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif
constexpr int PARTS = LANES / WIDTH;

typedef float vf __attribute__((vector_size(WIDTH * 4)));
typedef int32_t vi __attribute__((vector_size(WIDTH * 4)));

struct f32x16 {
    vf part[PARTS];
};
struct i32x16 {
    vi part[PARTS];
};
struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

#define CF_EACH _Pragma("GCC unroll 4") for (int p = 0; p < PARTS; ++p)

inline f32x16 operator+(f32x16 a, f32x16 b) { CF_EACH a.part[p] += b.part[p]; return a; }
inline f32x16 operator-(f32x16 a, f32x16 b) { CF_EACH a.part[p] -= b.part[p]; return a; }
inline f32x16 operator*(f32x16 a, f32x16 b) { CF_EACH a.part[p] *= b.part[p]; return a; }
inline f32x16 operator/(f32x16 a, f32x16 b) { CF_EACH a.part[p] /= b.part[p]; return a; }
inline i32x16 operator+(i32x16 a, i32x16 b) { CF_EACH a.part[p] += b.part[p]; return a; }
inline i32x16 operator-(i32x16 a, i32x16 b) { CF_EACH a.part[p] -= b.part[p]; return a; }
inline i32x16 operator*(i32x16 a, i32x16 b) { CF_EACH a.part[p] *= b.part[p]; return a; }
inline i32x16 operator&(i32x16 a, i32x16 b) { CF_EACH a.part[p] &= b.part[p]; return a; }
inline i32x16 operator<<(i32x16 a, int n) { CF_EACH a.part[p] <<= n; return a; }
inline i32x16 operator>>(i32x16 a, int n) { CF_EACH a.part[p] >>= n; return a; }

// a * b + c, rounded once where the instruction set can, twice where not. Nothing else is fused (-ffp-contract=off), so every
// compiler makes the same bits of the same source. (b before a: a product does not care, g++'s schedule of int4 decoding does.)
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
    c.part[0] = (vf)_mm512_fmadd_ps((__m512)b.part[0], (__m512)a.part[0], (__m512)c.part[0]);
#elif defined(__FMA__)
    CF_EACH c.part[p] = (vf)_mm256_fmadd_ps((__m256)b.part[p], (__m256)a.part[p], (__m256)c.part[p]);
#elif defined(__ARM_FEATURE_FMA)
    CF_EACH c.part[p] = (vf)vfmaq_f32((float32x4_t)c.part[p], (float32x4_t)a.part[p], (float32x4_t)b.part[p]);
#else
    CF_EACH c.part[p] = a.part[p] * b.part[p] + c.part[p];
#endif
    return c;
}
inline float fma(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}
inline f32x16 max(f32x16 a, f32x16 b) {
    CF_EACH a.part[p] = a.part[p] > b.part[p] ? a.part[p] : b.part[p];
    return a;
}
inline f32x16 min(f32x16 a, f32x16 b) {
    CF_EACH a.part[p] = a.part[p] < b.part[p] ? a.part[p] : b.part[p];
    return a;
}
inline i32x16 max(i32x16 a, i32x16 b) {
    CF_EACH a.part[p] = a.part[p] > b.part[p] ? a.part[p] : b.part[p];
    return a;
}
inline f32x16 abs(f32x16 a) { CF_EACH a.part[p] = (vf)((vi)a.part[p] & 0x7fffffff); return a; }
inline f32x16 zero_below(f32x16 a, f32x16 x, f32x16 limit) {
    CF_EACH a.part[p] = (vf)((vi)a.part[p] & (x.part[p] >= limit.part[p]));
    return a;
}
inline i32x16 bits(f32x16 a) { i32x16 r; CF_EACH r.part[p] = (vi)a.part[p]; return r; }
inline f32x16 from_bits(i32x16 a) { f32x16 r; CF_EACH r.part[p] = (vf)a.part[p]; return r; }
inline f32x16 to_float(i32x16 a) {
    f32x16 r;
    CF_EACH r.part[p] = __builtin_convertvector(a.part[p], vf);
    return r;
}

inline f32x16 broadcast(float x) {
    f32x16 r;
#if defined(__AVX512F__)
    r.part[0] = (vf)_mm512_set1_ps(x);
#elif defined(__AVX2__)
    CF_EACH r.part[p] = (vf)_mm256_set1_ps(x);
#else
    CF_EACH r.part[p] = vf{x, x, x, x};
#endif
    return r;
}
inline i32x16 broadcast(int32_t x) {
    i32x16 r;
#if defined(__AVX512F__)
    r.part[0] = (vi)_mm512_set1_epi32(x);
#elif defined(__AVX2__)
    CF_EACH r.part[p] = (vi)_mm256_set1_epi32(x);
#else
    CF_EACH r.part[p] = vi{x, x, x, x};
#endif
    return r;
}
inline f32x16 zero() { return f32x16{}; }

inline float to_float(bf16 x) {
    uint32_t wide = uint32_t(x.bits) << 16;
    float r;
    std::memcpy(&r, &wide, 4);
    return r;
}
inline float to_float(f16 x) {
    // Scaling by 2^112 moves the half's exponent into a float's, subnormals included; what is no number stays none.
    uint32_t wide = uint32_t(x.bits & 0x7fff) << 13;
    if ((x.bits & 0x7c00) == 0x7c00) wide |= 0x7f800000;
    float r;
    std::memcpy(&r, &wide, 4);
    r *= 0x1p112f;
    return x.bits & 0x8000 ? -r : r;
}
inline float to_float(float x) { return x; }
inline float to_float(int8_t x) { return x; }

// Round to nearest even; a NaN stays one.
inline bf16 to_bf16(float x) {
    uint32_t wide;
    std::memcpy(&wide, &x, 4);
    if ((wide & 0x7fffffff) > 0x7f800000) return bf16{uint16_t((wide >> 16) | 0x40)};
    return bf16{uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16)};
}

// Round to nearest even, and to the largest number what is beyond it: a key that is a little off is better than an infinity,
// which makes a NaN of every score that it meets. A NaN stays one.
inline f16 to_f16(float x) {
    constexpr float LARGEST = 65504;
    x = x > LARGEST ? LARGEST : x < -LARGEST ? -LARGEST : x;
#if defined(__F16C__)
    return f16{_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)};
#else
    uint32_t wide;
    std::memcpy(&wide, &x, 4);
    const uint32_t sign = wide >> 16 & 0x8000, magnitude = wide & 0x7fffffff;
    if (magnitude > 0x7f800000) return f16{uint16_t(sign | 0x7e00 | (magnitude >> 13 & 0x3ff))};
    if (magnitude < 0x38800000) {
        // Below 2^-14 halves are 2^-24 apart, as floats are next to 1/2.
        float small;
        std::memcpy(&small, &magnitude, 4);
        small += 0.5f;
        std::memcpy(&wide, &small, 4);
        return f16{uint16_t(sign | (wide & 0x7ff))};
    }
    // 13 of 23 fraction bits go, and the exponent's bias from 127 to 15.
    return f16{uint16_t(sign | ((magnitude + 0xfff + ((magnitude >> 13) & 1)) >> 13) - (112 << 10))};
#endif
}

// Every lane as to_bf16 would round it, if no lane is a NaN.
inline f32x16 round_to_bf16(f32x16 x) {
    CF_EACH {
        const vi wide = (vi)x.part[p];
        x.part[p] = (vf)((wide + 0x7fff + ((wide >> 16) & 1)) & int32_t(0xffff0000));
    }
    return x;
}

// Part by part: a copy of the whole struct would pass through memory.
inline f32x16 load(const float* x) {
    f32x16 r;
    CF_EACH std::memcpy(&r.part[p], x + p * WIDTH, sizeof(vf));
    return r;
}
inline i32x16 load(const uint32_t* x) {
    i32x16 r;
    CF_EACH std::memcpy(&r.part[p], x + p * WIDTH, sizeof(vi));
    return r;
}
inline void store(float* x, f32x16 v) { CF_EACH std::memcpy(x + p * WIDTH, &v.part[p], sizeof(vf)); }
inline void store(uint32_t* x, i32x16 v) { CF_EACH std::memcpy(x + p * WIDTH, &v.part[p], sizeof(vi)); }

#if defined(__AVX512F__)
inline f32x16 load(const bf16* x) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)x));
    return {{(vf)_mm512_slli_epi32(wide, 16)}};
}
inline f32x16 load(const f16* x) { return {{(vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)x))}}; }
inline f32x16 load(const int8_t* x) {
    return {{(vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)x)))}};
}
inline i32x16 load(const uint8_t* x) { return {{(vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)x))}}; }
#elif defined(__AVX2__)
inline f32x16 load(const bf16* x) {
    f32x16 r;
    CF_EACH r.part[p] = (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)x + p)), 16);
    return r;
}
inline f32x16 load(const f16* x) {
    f32x16 r;
    CF_EACH r.part[p] = (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)x + p));
    return r;
}
inline i32x16 load(const uint8_t* x) {
    i32x16 r;
    CF_EACH r.part[p] = (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(x + 8 * p)));
    return r;
}
inline f32x16 load(const int8_t* x) {
    f32x16 r;
    CF_EACH r.part[p] =
        (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(x + 8 * p))));
    return r;
}
#else
template <class T>
inline f32x16 load(const T* x) {
    float r[LANES];
    for (int i = 0; i < LANES; ++i) r[i] = to_float(x[i]);
    return load(r);
}
inline i32x16 load(const uint8_t* x) {
    uint32_t r[LANES];
    for (int i = 0; i < LANES; ++i) r[i] = x[i];
    return load(r);
}
#endif

// The first n of sixteen elements; the other lanes are zero and their memory is not touched.
template <class T>
inline auto load_first(const T* x, int n) -> decltype(load(x)) {
    if (n >= LANES) return load(x);
    T copy[LANES] = {};
    std::memcpy(copy, x, n * sizeof(T));
    return load(copy);
}
inline void store_first(float* x, f32x16 v, int n) {
    if (n >= LANES) return store(x, v);
    std::memcpy(x, &v, n * sizeof(float));
}

// Lanes are pairs of bf16: the first, or the second of each.
inline f32x16 of_pairs(i32x16 pairs, bool second) {
    CF_EACH pairs.part[p] = second ? pairs.part[p] & int32_t(0xffff0000) : pairs.part[p] << 16;
    return from_bits(pairs);
}
// The sum of what is stored, thirty-two bf16, is added to `sum` pair by pair.
inline f32x16 store_and_add(bf16* x, f32x16 a, f32x16 b, f32x16 sum) {
#if defined(__AVX512BF16__)
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)b.part[0], (__m512)a.part[0]);
    std::memcpy(x, &both, sizeof both);
    return {{(vf)_mm512_dpbf16_ps((__m512)sum.part[0], both, (__m512bh)_mm512_set1_epi32(0x3f803f80))}};
#else
    float wide[2 * LANES];
    store(wide, a);
    store(wide + LANES, b);
    for (int i = 0; i < 2 * LANES; ++i) x[i] = to_bf16(wide[i]);
    const i32x16 pairs = load((const uint32_t*)x);
    return sum + of_pairs(pairs, true) + of_pairs(pairs, false);
#endif
}
inline void store(bf16* x, f32x16 a, f32x16 b) { store_and_add(x, a, b, zero()); }

// All bits of lanes first to last, none of the others.
inline i32x16 lanes(int64_t first, int64_t last) {
    static const uint32_t numbers[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    i32x16 lane = load(numbers);
    const i32x16 from = broadcast(int32_t(first)), to = broadcast(int32_t(last));
    CF_EACH lane.part[p] = (lane.part[p] >= from.part[p]) & (lane.part[p] <= to.part[p]);
    return lane;
}
// x where `lanes` has bits, y elsewhere.
inline f32x16 where(i32x16 lanes, f32x16 x, f32x16 y) {
    CF_EACH x.part[p] = (vf)(((vi)x.part[p] & lanes.part[p]) | ((vi)y.part[p] & ~lanes.part[p]));
    return x;
}

// The low byte of every lane.
inline void store_bytes(int8_t* x, i32x16 v) {
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i*)x, _mm512_cvtepi32_epi8((__m512i)v.part[0]));
#else
    int32_t wide[LANES];
    std::memcpy(wide, &v, sizeof wide);
    for (int i = 0; i < LANES; ++i) x[i] = int8_t(wide[i]);
#endif
}

#if defined(__AVX512F__)
// What op makes of all lanes, in the order that `sum` says. The compilers' own reductions promise none.
template <class Op>
inline float reduce(f32x16 v, Op op) {
    const auto halves = [&](__m512 other) { v = op(v, f32x16{{(vf)other}}); };
    halves(_mm512_shuffle_f32x4((__m512)v.part[0], (__m512)v.part[0], 0x4e));
    halves(_mm512_shuffle_f32x4((__m512)v.part[0], (__m512)v.part[0], 0xb1));
    halves(_mm512_permute_ps((__m512)v.part[0], 0x4e));
    halves(_mm512_permute_ps((__m512)v.part[0], 0xb1));
    return v.part[0][0];
}
#endif
// Lanes are added pairwise in one fixed order: the upper half to the lower, down to one.
inline float sum(f32x16 v) {
#if defined(__AVX512F__)
    return reduce(v, [](f32x16 a, f32x16 b) { return a + b; });
#else
    float x[LANES];
    store(x, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) x[i] += x[i + half];
    return x[0];
#endif
}
inline int32_t sum(i32x16 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)v.part[0]);
#else
    int32_t x[LANES], total = 0;
    std::memcpy(x, &v, sizeof x);
    for (int32_t y : x) total += y;
    return total;
#endif
}
inline float max(f32x16 v) {
#if defined(__AVX512F__)
    return reduce(v, [](f32x16 a, f32x16 b) { return max(a, b); });
#else
    float x[LANES];
    store(x, v);
    float m = x[0];
    for (float y : x) m = y > m ? y : m;
    return m;
#endif
}
// 1 / x within 2 ulp for x in [1, 2^120].
inline f32x16 reciprocal(f32x16 x) {
#if defined(__AVX512F__)
    // 14 bits by table, twice as many by a step of Newton's: a division takes as long as ten of these instructions.
    const f32x16 r{{(vf)_mm512_rcp14_ps((__m512)x.part[0])}};
    return fma(r, fma(zero() - x, r, broadcast(1.0f)), r);
#else
    return broadcast(1.0f) / x;
#endif
}
// Lane i is what op(a, b) makes of all lanes of v[i]. Halves of two vectors are put side by side, until each has one lane left.
template <class Op>
inline f32x16 reduce_each(const f32x16* v, Op op) {
#if defined(__AVX512F__)
#define CF_HALVES(shuffle, a, b, low, high) \
    op({{(vf)shuffle((__m512)a.part[0], (__m512)b.part[0], low)}}, {{(vf)shuffle((__m512)a.part[0], (__m512)b.part[0], high)}})
    f32x16 of2[8], of4[4], of8[2];
    for (int i = 0; i < 8; ++i) {  // in the order in which the last step comes to lie
        const int first = i % 2 * 8 + i / 2;
        of2[i] = CF_HALVES(_mm512_shuffle_f32x4, v[first], v[first + 4], 0x44, 0xee);
    }
    for (int i = 0; i < 4; ++i) of4[i] = CF_HALVES(_mm512_shuffle_f32x4, of2[2 * i], of2[2 * i + 1], 0x88, 0xdd);
    for (int i = 0; i < 2; ++i) of8[i] = CF_HALVES(_mm512_shuffle_ps, of4[2 * i], of4[2 * i + 1], 0x44, 0xee);
    return CF_HALVES(_mm512_shuffle_ps, of8[0], of8[1], 0x88, 0xdd);
#undef CF_HALVES
#else
    // In the same order, a vector at a time: lanes 8 apart, then 4, 2 and 1.
    float reduced[LANES];
    for (int i = 0; i < LANES; ++i) {
        float x[2 * LANES] = {};
        store(x, v[i]);
        for (int half = LANES / 2; half; half /= 2) store(x, op(load(x), load(x + half)));
        reduced[i] = x[0];
    }
    return load(reduced);
#endif
}
inline f32x16 max_of_each(const f32x16* v) {
    return reduce_each(v, [](f32x16 a, f32x16 b) { return max(a, b); });
}
inline f32x16 sum_of_each(const f32x16* v) {
    return reduce_each(v, [](f32x16 a, f32x16 b) { return a + b; });
}
inline float first_lane(f32x16 v) {
    float x;
    std::memcpy(&x, &v, sizeof x);
    return x;
}

}  // namespace cf
