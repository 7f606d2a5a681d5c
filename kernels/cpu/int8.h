// int8 codes of a row, as matrix products with int8 activations read them.
#pragma once
#include "vec.h"

namespace cf {

// Of a row whose largest magnitude is given; 0 where its inverse would overflow.
struct Int8Scale {
    float scale, inverse;
    explicit Int8Scale(float largest)
        : scale(largest >= 1e-36f ? largest / 127.0f : 0.0f), inverse(largest >= 1e-36f ? 127.0f / largest : 0.0f) {}
};

// codes = round to nearest even(127 x / max |x|), scale = max |x| / 127, and running sums of codes at the end of every 32.
// K is a multiple of 32.
inline void quantize_row(const float* x, int64_t K, int8_t* codes, float* scale, int32_t* sums) {
    f32x16 most = zero(), more = zero();
    for (int64_t k = 0; k < K; k += 2 * LANES) {
        most = max(most, abs(load(x + k)));
        more = max(more, abs(load(x + k + LANES)));
    }
    const Int8Scale chosen(max(max(most, more)));
    *scale = chosen.scale;
    const f32x16 inverse = broadcast(chosen.inverse);
    const f32x16 magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds, and leaves the code in the low byte
    int32_t sum = 0;
    for (int64_t block = 0; block < K / 32; ++block) {
        i32x16 of_block = broadcast(int32_t(0));
        for (int64_t k = block * 32; k < (block + 1) * 32; k += LANES) {
            const i32x16 code = bits(fma(load(x + k), inverse, magic)) - bits(magic);
            store_bytes(codes + k, code);
            of_block = of_block + code;
        }
        sum += cf::sum(of_block);
        sums[block] = sum;
    }
}

// A row as 16-bit codes of at most 127 * 256, round to nearest even, in two rows of bytes each `stride` and `sums_stride` apart:
// 256 times the first plus the second, both signed. scale is of the codes.
inline void quantize_row_a16(
    const float* x, int64_t K, int8_t* codes, int64_t stride, float* scale, int32_t* sums, int64_t sums_stride
) {
    f32x16 most = zero();
    for (int64_t k = 0; k < K; k += LANES) most = max(most, abs(load(x + k)));
    const Int8Scale chosen(max(most));
    *scale = chosen.scale * (1.0f / 256);
    const f32x16 inverse = broadcast(chosen.inverse * 256);
    const f32x16 magic = broadcast(12582912.0f);  // as above
    int32_t sum_high = 0, sum_low = 0;
    for (int64_t block = 0; block < K / 32; ++block) {
        i32x16 highs = broadcast(int32_t(0)), lows = highs;
        for (int64_t k = block * 32; k < (block + 1) * 32; k += LANES) {
            const i32x16 code = bits(fma(load(x + k), inverse, magic)) - bits(magic);
            const i32x16 high = (code + broadcast(int32_t(128))) >> 8, low = code - (high << 8);
            store_bytes(codes + k, high);
            store_bytes(codes + stride + k, low);
            highs = highs + high;
            lows = lows + low;
        }
        sums[block] = sum_high += cf::sum(highs);
        sums[sums_stride + block] = sum_low += cf::sum(lows);
    }
}

}  // namespace cf
