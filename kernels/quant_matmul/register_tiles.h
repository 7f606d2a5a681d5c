// Products by register tiles: R rows of x by V row tiles of W, whatever the constants are. Libraries of several variants share them.
#pragma once
#include "../cpu/team.h"
#include "../cpu/weights.h"
#include "rows.h"

namespace cf {
namespace {

template <int R, int V, class Args, class W>
void multiply(const Args* a, const W& w, int64_t row, int64_t tile) {
    f32x16 acc[R][V] = {};
    const float* x = a->x + row * a->x_stride;
    const int64_t group_size = w.group_size();
    for (int64_t group = 0; group * group_size < a->K; ++group) {
        typename W::Scale scale[V];
        for (int v = 0; v < V; ++v) scale[v] = w.scale(tile + v, group);
        for (int64_t k = group * group_size; k < (group + 1) * group_size; k += W::STEP) {
            typename W::Word word[V];
            for (int v = 0; v < V; ++v) word[v] = w.word(tile + v, k);
#pragma GCC unroll 8
            for (int j = 0; j < W::STEP; ++j) {
                f32x16 value[V];
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) value[v] = w.value(word[v], j, scale[v]);
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) {
                    f32x16 of_row = broadcast(x[r * a->x_stride + k + j]);
#pragma GCC unroll 8
                    for (int v = 0; v < V; ++v) acc[r][v] = fma(of_row, value[v], acc[r][v]);
                }
            }
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) write(a, row + r, tile + v, w.finish(acc[r][v], tile + v));
}

// Integer dot products per group, exact; then acc = acc + scale (dot - zero sum_x), in ascending groups.
template <int R, int V, class Args, class W>
void multiply_int8(const Args* a, const W& w, int64_t row, int64_t tile) {
    f32x16 acc[R][V] = {};
    const int8_t* x = a->x_codes + row * a->x_codes_stride;
    const int64_t group_size = w.group_size();
    for (int64_t group = 0; group * group_size < a->K; ++group) {
        i32x16 dot[R][V] = {};
        for (int64_t k = group * group_size; k < (group + 1) * group_size; k += W::STEP) {
            i32x16 word[V];
            for (int v = 0; v < V; ++v) word[v] = w.word(tile + v, k);
#pragma GCC unroll 2
            for (int j = 0; j < W::STEP / 4; ++j) {
                i32x16 quad[V];
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) quad[v] = w.quad(word[v], j);
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) {
                    int32_t four;
                    std::memcpy(&four, x + r * a->x_codes_stride + k + 4 * j, 4);
                    i32x16 of_row = broadcast(four);
#pragma GCC unroll 8
                    for (int v = 0; v < V; ++v) dot[r][v] = dot4(dot[r][v], quad[v], of_row);
                }
            }
        }
        int32_t sum_x[R];  // of the group's codes: a difference of running sums, which stand at the end of every 32
        const int32_t* sums = a->x_sums + row * a->x_sums_stride + (group + 1) * group_size / 32 - 1;
        for (int r = 0; r < R; ++r, sums += a->x_sums_stride) sum_x[r] = sums[0] - (group ? sums[-group_size / 32] : 0);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            f32x16 scale = w.scale(tile + v, group);
            i32x16 zero = w.zero(tile + v, group);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
                acc[r][v] = fma(scale, to_float(W::centred(dot[r][v], zero, sum_x[r])), acc[r][v]);
        }
    }
    constexpr int EACH = W::ROWS_PER_TOKEN;
    static_assert(R % EACH == 0);
    for (int r = 0; r < R; r += EACH) {
        const int64_t token = (row + r) / EACH;
        for (int v = 0; v < V; ++v)
            write(a, token, tile + v, joined<W>(acc[r][v], acc[r + EACH - 1][v]) * broadcast(a->x_scales[token]));
    }
}

// Two levels of scales: dot products of a group, times its step, join as integers.
template <int R, int V, class Args, class W>
void multiply_two_level(const Args* a, const W& w, int64_t row, int64_t tile) {
    i32x16 acc[R][V] = {};
    const int8_t* x = a->x_codes + row * a->x_codes_stride;
    for (int64_t k = 0; k < a->K; k += 2 * W::GROUP) {
        i32x16 pairs[V];
        for (int v = 0; v < V; ++v) pairs[v] = w.step_pairs(tile + v, k);
#pragma GCC unroll 2
        for (int group = 0; group < 2; ++group) {
            i32x16 of_eights[R] = {}, dot[R][V] = {};
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                const int64_t at = k + group * W::GROUP + 4 * j;
                i32x16 quad[V];
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) quad[v] = w.quad(w.word(tile + v, at), j % 2);
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) {
                    int32_t four;
                    std::memcpy(&four, x + r * a->x_codes_stride + at, 4);
                    i32x16 of_row = broadcast(four);
                    of_eights[r] = dot4(of_eights[r], broadcast(int32_t(0x08080808)), of_row);
#pragma GCC unroll 8
                    for (int v = 0; v < V; ++v) dot[r][v] = dot4(dot[r][v], quad[v], of_row);
                }
            }
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                const i32x16 step = (pairs[v] >> (4 * group)) & broadcast(int32_t(15));
                // Of 16 products of 4 bits by 8, at most 16,256: sixteen bits hold it.
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) acc[r][v] = multiply_add(acc[r][v], step, dot[r][v] - of_eights[r]);
            }
        }
    }
    for (int v = 0; v < V; ++v)
        for (int r = 0; r < R; ++r)
            write(a, row + r, tile + v, fma(w.scale(tile + v, 0), to_float(acc[r][v]), zero()) * broadcast(a->x_scales[row + r]));
}

struct Float {
    static constexpr bool IS_INTEGER = false;
    template <int R, int V, class Args, class W>
    static void tile(const Args* a, const W& w, int64_t row, int64_t tile) { multiply<R, V>(a, w, row, tile); }
};
struct Int8Dot {
    static constexpr bool IS_INTEGER = true;
    template <int R, int V, class Args, class W>
    static void tile(const Args* a, const W& w, int64_t row, int64_t tile) { multiply_int8<R, V>(a, w, row, tile); }
};
struct TwoLevelDot {
    static constexpr bool IS_INTEGER = true;
    template <int R, int V, class Args, class W>
    static void tile(const Args* a, const W& w, int64_t row, int64_t tile) { multiply_two_level<R, V>(a, w, row, tile); }
};

// Rows in tiles of R, then R / 2, down to those of one token.
template <class Kind, int R, int V, class Args, class W>
void all_rows(const Args* a, const W& w, int64_t row, int64_t tile) {
    const int64_t rows = num_rows<W>(a);
    for (; row + R <= rows; row += R) Kind::template tile<R, V>(a, w, row, tile);
    if constexpr (R > W::ROWS_PER_TOKEN) all_rows<Kind, R / 2, V>(a, w, row, tile);
}

template <class Kind, int R, int V, class Args, class W>
void tiles(const Args* a, const W& w, Range range) {
    int64_t tile = range.begin;
    for (; tile + V <= range.end; tile += V) all_rows<Kind, R, V>(a, w, 0, tile);
    if constexpr (V > 1) tiles<Kind, R, V / 2>(a, w, {tile, range.end});
}

}  // namespace
}  // namespace cf
