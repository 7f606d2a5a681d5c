// out[t, n] = sum_k x[t, k] W[n, k] (+ bias[n]).
//
// A register tile is R rows of x by V row tiles of W. Each output element is one chain of fused multiply-adds in
// ascending k, whatever R, V, the batch and the team are, so none of them can change a bit of it. The loop over row
// tiles of x is inside the one over W, so that a panel of W stays in the cache while all rows pass over it.
#include <type_traits>
#include <vector>

#include "../cpu/team.h"
#include "../cpu/weights.h"
#include "args.h"
#include "tiled.h"

using namespace cf;

namespace {

constexpr int ROWS = QUANT_MATMUL_ROWS, VECTORS = QUANT_MATMUL_VECTORS, DECODE_VECTORS = QUANT_MATMUL_DECODE_VECTORS;
[[maybe_unused]] constexpr int TILED_ROWS = QUANT_MATMUL_TILED_ROWS;
[[maybe_unused]] constexpr int64_t SHARED_ROWS = QUANT_MATMUL_SHARED_ROWS;

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

// From so many rows on, two-level weights are unpacked first, to be multiplied as int8 ones: the same integers.
constexpr int UNPACKED_ROWS = 8;

template <class Args, class W>
void unpacked(const Args* a, const W& w, Range range) {
    thread_local std::vector<int8_t> room;
    for (int64_t tile = range.begin; tile < range.end; tile += VECTORS) {
        const Range some{tile, tile + VECTORS < range.end ? tile + VECTORS : range.end};
        unpack_quads(w, some, 128, room);
        tiles<Int8Dot, ROWS, VECTORS>(a, Int8A8{(const uint8_t*)room.data(), w.scales, a->K, tile}, some);
    }
}

#if defined(CF_TILES)
// Threads share out row tiles of W; or rows, once they are many: what a thread then writes, it reads in the next call. Weights
// that are unpacked are so once, by one thread. A piece of work is so large that passing over x, or over W, for it weighs little.
template <class Args, class W>
void run_tiled(const Args* a, const W& w, Work* work) {
    const int64_t T = num_rows<W>(a), tiles = (a->N + LANES - 1) / LANES;
    TiledRows<Args, W> rows(a, w);
    if (T < SHARED_ROWS || W::IS_CENTRED)
        return work->each(tiles, 4, [&](Range some) { rows.multiply(some, {0, T}); });
    constexpr int64_t AT_ONCE = 2 * TILE_ROWS;
    work->each((T + AT_ONCE - 1) / AT_ONCE, 4, [&](Range blocks) {
        rows.multiply({0, tiles}, {blocks.begin * AT_ONCE, blocks.end * AT_ONCE < T ? blocks.end * AT_ONCE : T});
    });
}
#endif

// Row tiles of W are shared out, by as many as are multiplied at once.
template <class Kind, int R, int V, class Args, class W>
void run_tiles(const Args* a, const W& w, Work* work) {
    work->each((a->N + LANES - 1) / LANES, V, [&](Range range) { tiles<Kind, R, V>(a, w, range); });
}

template <class Kind, class Args, class W>
void run(const Args* a, const W& w, Work* work) {
    constexpr int EACH = W::ROWS_PER_TOKEN;
    if (*a->T == 1) return run_tiles<Kind, EACH, DECODE_VECTORS >= EACH ? DECODE_VECTORS / EACH : 1>(a, w, work);
#if defined(CF_TILES)
    if constexpr (Kind::IS_INTEGER) {
        // Groups join by vectors and packed weights are unpacked, so there tiles pay later.
        const int times = w.group_size() < a->K ? 4 : W::IS_CENTRED ? 2 : 1;
        if (num_rows<W>(a) >= times * TILED_ROWS) return run_tiled(a, w, work);
    }
#endif
    if constexpr (std::is_same_v<Kind, TwoLevelDot>) {
        if (*a->T >= UNPACKED_ROWS)
            return work->each((a->N + LANES - 1) / LANES, VECTORS, [&](Range range) { unpacked(a, w, range); });
        return run_tiles<Kind, ROWS < 4 ? ROWS : 4, VECTORS>(a, w, work);
    }
    constexpr int WHOLE_TOKENS = ROWS < 4 ? 2 : ROWS < 8 ? 4 : 8;  // halves of which are whole tokens
    run_tiles<Kind, EACH == 1 ? ROWS : WHOLE_TOKENS, VECTORS>(a, w, work);
}

}  // namespace

#define ENTRY(variant, kind, weights) \
    void quant_matmul_##variant(const quant_matmul_##variant##_args* a, Work* work) { \
        run<kind>(a, weights(a, a->K), work); \
    }
ENTRY(fp32, Float, plain<float>)
ENTRY(bf16, Float, plain<bf16>)
ENTRY(int8, Float, int8)
ENTRY(int4_sym, Float, int4_sym)
ENTRY(int4_asym, Float, int4_asym)
ENTRY(int8_a8, Int8Dot, int8_a8)
ENTRY(int8_a16, Int8Dot, int8_a16)
ENTRY(int4_sym_a8, Int8Dot, int4_sym_a8)
ENTRY(int4_asym_a8, Int8Dot, int4_asym_a8)
ENTRY(int4_twolevel, Float, int4_twolevel)
ENTRY(int4_twolevel_a8, TwoLevelDot, int4_twolevel_a8)
