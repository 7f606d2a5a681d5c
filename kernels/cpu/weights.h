// The packed weight layouts (docs/architecture.md): row tiles of 16 output channels, so that a vector holds the same k
// of 16 channels. A format yields the weights of one tile in order of k; `word` is what one load fetches (STEP values
// of k), `value(word, j, scale)` its j-th vector. Every value is exact in fp32, but for int8, whose scale waits for
// the end (`finish`). `from(tile)` is the matrix whose first row tile is that one.
#pragma once
#include <vector>

#include "integers.h"
#include "team.h"

namespace cf {

// Position of k = j within a u32 of eight int4 codes.
constexpr int nibble_shift(int j) { return (j & 3) * 8 + (j >> 2) * 4; }

template <class T>
struct Plain {
    static constexpr int STEP = 1, ROWS_PER_TOKEN = 1;
    struct Scale {};
    typedef f32x16 Word;
    const T* weight;
    int64_t K;

    Plain from(int64_t tile) const { return {weight + tile * K * LANES, K}; }
    int64_t group_size() const { return K; }
    Scale scale(int64_t, int64_t) const { return {}; }
    Word word(int64_t tile, int64_t k) const { return load(weight + (tile * K + k) * LANES); }
    f32x16 value(Word w, int, Scale) const { return w; }
    f32x16 finish(f32x16 acc, int64_t) const { return acc; }
    float at(int64_t row, int64_t k) const { return to_float(weight[(row / LANES * K + k) * LANES + row % LANES]); }
};

struct Int8 : Plain<int8_t> {
    const float* scales;

    Int8 from(int64_t tile) const { return {Plain::from(tile), scales + tile * LANES}; }
    f32x16 finish(f32x16 acc, int64_t tile) const { return acc * load(scales + tile * LANES); }
    float at(int64_t row, int64_t k) const { return Plain<int8_t>::at(row, k) * scales[row]; }
};

template <bool ZEROS>
struct Int4 {
    static constexpr int STEP = 8, ROWS_PER_TOKEN = 1;
    struct Scale {
        f32x16 scale, zero;
    };
    typedef i32x16 Word;
    const uint32_t* codes;
    const f16* scales;
    const uint8_t* zeros;
    int64_t K, groups;

    Int4 from(int64_t tile) const {
        const int64_t at = tile * groups * LANES;
        return {codes + tile * (K / 8) * LANES, scales + at, ZEROS ? zeros + at : nullptr, K, groups};
    }
    int64_t group_size() const { return K / groups; }
    Scale scale(int64_t tile, int64_t group) const {
        int64_t at = (tile * groups + group) * LANES;
        Scale s{load(scales + at), zero()};
        if constexpr (ZEROS) s.zero = to_float(load(zeros + at) - broadcast(int32_t(8)));
        return s;
    }
    Word word(int64_t tile, int64_t k) const { return load(codes + (tile * (K / 8) + k / 8) * LANES); }
    f32x16 value(Word w, int j, const Scale& s) const {
        f32x16 q = nibble_minus_8(w, nibble_shift(j));
        if constexpr (ZEROS) q = q - s.zero;
        return q * s.scale;
    }
    f32x16 finish(f32x16 acc, int64_t) const { return acc; }
    float at(int64_t row, int64_t k) const {
        int64_t tile = row / LANES, lane = row % LANES;
        uint32_t word = codes[(tile * (K / 8) + k / 8) * LANES + lane];
        int64_t of_group = (tile * groups + k / group_size()) * LANES + lane;
        int zero = ZEROS ? zeros[of_group] : 8;
        return to_float(scales[of_group]) * float(int(word >> nibble_shift(k % 8) & 15) - zero);
    }
};

// Codes of 3 bits: the low two of sixteen in a word, the high ones of two such words in another.
struct Int3 {
    static constexpr int STEP = 16, ROWS_PER_TOKEN = 1;
    static constexpr int64_t GROUP = 32;
    typedef f32x16 Scale;
    struct Word {
        i32x16 low, high;
    };
    const uint32_t* codes;
    const uint32_t* high_bits;
    const f16* scales;
    int64_t K;

    Int3 from(int64_t tile) const {
        const int64_t at = tile * (K / GROUP) * LANES;
        return {codes + tile * (K / STEP) * LANES, high_bits + at, scales + at, K};
    }
    int64_t group_size() const { return GROUP; }
    f32x16 scale(int64_t tile, int64_t group) const { return load(scales + (tile * (K / GROUP) + group) * LANES); }
    Word word(int64_t tile, int64_t k) const {
        const int64_t of_low = tile * (K / STEP) + k / STEP, of_high = tile * (K / GROUP) + k / GROUP;
        return {load(codes + of_low * LANES), load(high_bits + of_high * LANES) >> int(k % GROUP)};
    }
    f32x16 value(const Word& w, int j, f32x16 scale) const {
        const i32x16 low = (w.low >> (2 * j)) & broadcast(3), high = ((w.high >> j) << 2) & broadcast(4);
        return to_float(low + high - broadcast(4)) * scale;
    }
    f32x16 finish(f32x16 acc, int64_t) const { return acc; }
    float at(int64_t row, int64_t k) const {
        const int64_t tile = row / LANES, lane = row % LANES;
        const uint32_t low = codes[(tile * (K / STEP) + k / STEP) * LANES + lane] >> (2 * (k % STEP)) & 3;
        const int64_t group = (tile * (K / GROUP) + k / GROUP) * LANES + lane;
        return to_float(scales[group]) * float(int(low + (high_bits[group] >> (k % GROUP) & 1) * 4) - 4);
    }
};

// The formats of dot products with int8 activations: unsigned codes, four k to a lane.

struct Int8A8 {
    static constexpr int STEP = 4, ROWS_PER_TOKEN = 1;
    static constexpr bool IS_CENTRED = false;
    typedef uint8_t Byte;  // as matrix tiles take it
    const uint8_t* codes;
    const float* scales;
    int64_t K, first = 0;  // the row tile that codes begin with

    Int8A8 from(int64_t tile) const { return {codes + tile * K * LANES, scales + tile * LANES, K}; }
    int64_t group_size() const { return K; }
    f32x16 scale(int64_t tile, int64_t) const { return load(scales + tile * LANES); }
    i32x16 zero(int64_t, int64_t) const { return broadcast(int32_t(128)); }
    i32x16 word(int64_t tile, int64_t k) const {
        return load((const uint32_t*)(codes + ((tile - first) * K + k) * LANES));
    }
    i32x16 quad(i32x16 w, int) const { return w; }
    // dot - zero sum_x, exact: 128 times a sum is a shift.
    static i32x16 centred(i32x16 dot, i32x16, int32_t sum_x) { return dot - broadcast(sum_x * 128); }
    float at(int64_t row, int64_t k) const {
        int64_t tile = row / LANES, lane = row % LANES;
        return float(int(codes[(tile * K + k / 4 * 4) * LANES + lane * 4 + k % 4]) - 128) * scales[row];
    }
};

// For int16 activations, whose high and low bytes are two rows.
struct Int8A16 : Int8A8 {
    static constexpr int ROWS_PER_TOKEN = 2;
    Int8A16 from(int64_t tile) const { return {Int8A8::from(tile)}; }
};

template <bool ZEROS>
struct Int4A8 : Int4<ZEROS> {
    static constexpr bool IS_CENTRED = true;
    typedef int8_t Byte;
    Int4A8 from(int64_t tile) const { return {Int4<ZEROS>::from(tile)}; }
    f32x16 scale(int64_t tile, int64_t group) const { return load(this->scales + (tile * this->groups + group) * LANES); }
    i32x16 zero(int64_t tile, int64_t group) const {
        if constexpr (ZEROS) return load(this->zeros + (tile * this->groups + group) * LANES);
        return broadcast(int32_t(8));
    }
    i32x16 quad(i32x16 w, int j) const { return (w >> (4 * j)) & broadcast(int32_t(0x0f0f0f0f)); }
    // A zero point is positive and below 16, and the sum of a group of 192 codes fits 16 bits.
    static i32x16 centred(i32x16 dot, i32x16 zero, int32_t sum_x) { return multiply_add(dot, zero, broadcast(-sum_x)); }
};

// Two levels of scales: a code of 4 bits less 8, times its group's step of 4 bits, is an integer of 8 bits, and that times a
// scale of the channel the weight (QServe's progressive quantization, Lin et al. 2024, section 4.1, here symmetric).
struct Int4TwoLevel {
    static constexpr int STEP = 8, ROWS_PER_TOKEN = 1;
    static constexpr int64_t GROUP = 16;
    typedef f32x16 Scale;
    typedef i32x16 Word;
    const uint32_t* codes;
    const uint8_t* steps;
    const float* scales;
    int64_t K;

    Int4TwoLevel from(int64_t tile) const {
        return {codes + tile * (K / 8) * LANES, steps + tile * (K / 32) * LANES, scales + tile * LANES, K};
    }
    int64_t group_size() const { return GROUP; }
    // Those of two groups, in the nibbles of each lane.
    i32x16 step_pairs(int64_t tile, int64_t k) const { return load(steps + (tile * (K / 32) + k / 32) * LANES); }
    f32x16 scale(int64_t tile, int64_t group) const {
        return to_float((step_pairs(tile, group * GROUP) >> int(group % 2 * 4)) & broadcast(15));
    }
    i32x16 word(int64_t tile, int64_t k) const { return load(codes + (tile * (K / 8) + k / 8) * LANES); }
    f32x16 value(i32x16 w, int j, f32x16 step) const { return nibble_minus_8(w, nibble_shift(j)) * step; }
    f32x16 finish(f32x16 acc, int64_t tile) const { return acc * load(scales + tile * LANES); }
    float at(int64_t row, int64_t k) const {
        const int64_t tile = row / LANES, lane = row % LANES;
        const uint32_t word = codes[(tile * (K / 8) + k / 8) * LANES + lane];
        const int pair = steps[(tile * (K / 32) + k / 32) * LANES + lane], step = pair >> (k / GROUP % 2 * 4) & 15;
        return float(int(word >> nibble_shift(k % 8) & 15) * step - 8 * step) * scales[row];
    }
};

struct Int4TwoLevelA8 : Int4TwoLevel {
    static constexpr bool IS_CENTRED = true;
    typedef int8_t Byte;

    Int4TwoLevelA8 from(int64_t tile) const { return {Int4TwoLevel::from(tile)}; }
    int64_t group_size() const { return K; }  // integers throughout: one sum
    f32x16 scale(int64_t tile, int64_t) const { return load(scales + tile * LANES); }
    i32x16 quad(i32x16 w, int j) const { return (w >> (4 * j)) & broadcast(int32_t(0x0f0f0f0f)); }
};

// e2m1 codes, under a power of two for every 32 of K: its e8m0 code is the exponent's bits of the float, or 0 for 2^-127.
struct Mxfp4 {
    static constexpr int STEP = 8, ROWS_PER_TOKEN = 1;
    static constexpr int64_t GROUP = 32;
    typedef f32x16 Scale;
    typedef i32x16 Word;
    const uint32_t* codes;
    const uint8_t* scales;
    int64_t K;

    Mxfp4 from(int64_t tile) const {
        return {codes + tile * (K / 8) * LANES, scales + tile * (K / GROUP) * LANES, K};
    }
    int64_t group_size() const { return GROUP; }
    f32x16 scale(int64_t tile, int64_t group) const {
        const i32x16 exponent = load(scales + (tile * (K / GROUP) + group) * LANES) << 23;
        return from_bits(max(exponent, broadcast(int32_t(1 << 22))));
    }
    i32x16 word(int64_t tile, int64_t k) const { return load(codes + (tile * (K / 8) + k / 8) * LANES); }
    f32x16 value(i32x16 w, int j, f32x16 scale) const { return e2m1(w, nibble_shift(j)) * scale; }
    f32x16 finish(f32x16 acc, int64_t) const { return acc; }
    float at(int64_t row, int64_t k) const {
        const int64_t tile = row / LANES, lane = row % LANES;
        const int code = codes[(tile * (K / 8) + k / 8) * LANES + lane] >> nibble_shift(k % 8) & 15;
        float column[LANES];
        store(column, scale(tile, k / GROUP));
        return (code & 8 ? -0.5f : 0.5f) * float(E2M1_TWICE[code & 7]) * column[lane];
    }
};

// Twice the numbers are integers of -12 to 12, so that half the scale is that of their products.
struct Mxfp4A8 : Mxfp4 {
    static constexpr bool IS_CENTRED = true;
    static constexpr int ZERO = 12;
    typedef int8_t Byte;
    Mxfp4A8 from(int64_t tile) const { return {Mxfp4::from(tile)}; }
    f32x16 scale(int64_t tile, int64_t group) const { return Mxfp4::scale(tile, group) * broadcast(0.5f); }
    i32x16 zero(int64_t, int64_t) const { return broadcast(int32_t(ZERO)); }
    static i32x16 codes_of(i32x16 w, int j) { return (w >> (4 * j)) & broadcast(int32_t(0x0f0f0f0f)); }
    i32x16 quad(i32x16 w, int j) const { return e2m1_twice<ZERO>(codes_of(w, j)); }
    // The sum of a group of 32 codes fits 16 bits.
    static i32x16 centred(i32x16 dot, i32x16 zero, int32_t sum_x) { return multiply_add(dot, zero, broadcast(-sum_x)); }
};

// Row tiles [begin, end) as matrix tiles read them: four k of 16 channels in 64 bytes, less their zero point where Byte is
// signed. Where they lie, or in `room`.
inline const uint8_t* centred_quads(const Int8A8& w, Range tiles, std::vector<int8_t>&) {
    return w.codes + tiles.begin * w.K * LANES;
}
template <bool ZEROS>
const int8_t* centred_quads(const Int4A8<ZEROS>& w, Range tiles, std::vector<int8_t>& room) {
    constexpr int STEP = Int4A8<ZEROS>::STEP;
    room.resize((tiles.end - tiles.begin) * w.K * LANES);
    uint32_t* out = (uint32_t*)room.data();
    const int64_t words = w.group_size() / STEP, groups = w.groups;  // here, so that no store seems to change them
    const uint32_t* codes = w.codes + tiles.begin * groups * words * LANES;
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile)
        for (int64_t group = 0; group < groups; ++group) {
            const i32x16 zero = w.zero(tile, group) * broadcast(int32_t(0x01010101));
            for (int64_t i = 0; i < words; ++i, codes += LANES)
#pragma GCC unroll 2
                for (int j = 0; j < STEP / 4; ++j, out += LANES)
                    store(out, subtract_bytes(w.quad(load(codes), j), zero));
        }
    return room.data();
}

// The weights' integers, four k of 16 channels in 64 bytes; with 128 added they are as Int8A8 has them.
inline void unpack_quads(const Int4TwoLevelA8& w, Range tiles, int added, std::vector<int8_t>& room) {
    room.resize((tiles.end - tiles.begin) * w.K * LANES);
    uint32_t* out = (uint32_t*)room.data();
    const Int4TwoLevelA8 own = w;  // here, so that no store seems to change it
    const i32x16 every_byte = broadcast(int32_t(0x01010101)), offset = broadcast(int32_t(added * 0x01010101u));
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile)
        for (int64_t k = 0; k < own.K; k += 2 * own.GROUP) {
            const i32x16 pairs = own.step_pairs(tile, k) * every_byte;
#pragma GCC unroll 2
            for (int group = 0; group < 2; ++group) {
                const i32x16 step = (pairs >> (4 * group)) & broadcast(int32_t(0x0f0f0f0f));
                const i32x16 zero = subtract_bytes(step << 3, offset);
#pragma GCC unroll 4
                for (int j = 0; j < 4; ++j, out += LANES) {
                    const i32x16 word = own.word(tile, k + group * own.GROUP + j / 2 * 8);
                    store(out, subtract_bytes(multiply_bytes(own.quad(word, j % 2), step), zero));
                }
            }
        }
}
inline const int8_t* centred_quads(const Int4TwoLevelA8& w, Range tiles, std::vector<int8_t>& room) {
    unpack_quads(w, tiles, 0, room);
    return room.data();
}

inline const int8_t* centred_quads(const Mxfp4A8& w, Range tiles, std::vector<int8_t>& room) {
    room.resize((tiles.end - tiles.begin) * w.K * LANES);
    uint32_t* out = (uint32_t*)room.data();
    const uint32_t* codes = w.codes + tiles.begin * (w.K / Mxfp4::STEP) * LANES;
    for (int64_t i = (tiles.end - tiles.begin) * (w.K / Mxfp4::STEP); i > 0; --i, codes += LANES) {
        const i32x16 word = load(codes);
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j, out += LANES) store(out, e2m1_twice<0>(Mxfp4A8::codes_of(word, j)));
    }
    return room.data();
}

template <class T, class Args>
Plain<T> plain(const Args* a, int64_t K) { return {(const T*)a->weight, K}; }
template <class Args>
Int8 int8(const Args* a, int64_t K) { return {{a->codes, K}, a->scales}; }
template <class Args>
Int8A8 int8_a8(const Args* a, int64_t K) { return {a->codes, a->scales, K}; }
template <class Args>
Int8A16 int8_a16(const Args* a, int64_t K) { return {int8_a8(a, K)}; }
template <class Args>
Int3 int3(const Args* a, int64_t K) { return {a->codes, a->high_bits, (const f16*)a->scales, K}; }
template <class Args>
Int4<false> int4_sym(const Args* a, int64_t K) { return {a->codes, (const f16*)a->scales, nullptr, K, a->groups}; }
template <class Args>
Int4<true> int4_asym(const Args* a, int64_t K) { return {a->codes, (const f16*)a->scales, a->zeros, K, a->groups}; }
template <class Args>
Int4A8<false> int4_sym_a8(const Args* a, int64_t K) { return {int4_sym(a, K)}; }
template <class Args>
Int4A8<true> int4_asym_a8(const Args* a, int64_t K) { return {int4_asym(a, K)}; }
template <class Args>
Int4TwoLevel int4_twolevel(const Args* a, int64_t K) { return {a->codes, a->steps, a->scales, K}; }
template <class Args>
Int4TwoLevelA8 int4_twolevel_a8(const Args* a, int64_t K) { return {int4_twolevel(a, K)}; }
template <class Args>
Mxfp4 mxfp4(const Args* a, int64_t K) { return {a->codes, a->scales, K}; }
template <class Args>
Mxfp4A8 mxfp4_a8(const Args* a, int64_t K) { return {mxfp4(a, K)}; }

}  // namespace cf
