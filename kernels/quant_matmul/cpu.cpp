// out[t, n] = sum_k x[t, k] W[n, k] (+ bias[n]).
//
// A register tile is R rows of x by V row tiles of W. Each output element is one chain of fused multiply-adds in
// ascending k, whatever R, V, the batch and the team are, so none of them can change a bit of it. The loop over row
// tiles of x is inside the one over W, so that a panel of W stays in the cache while all rows pass over it.
#include "../cpu/team.h"
#include "../cpu/weights.h"
#include "args.h"

using namespace cf;

namespace {

constexpr int ROWS = QUANT_MATMUL_ROWS, VECTORS = QUANT_MATMUL_VECTORS, DECODE_VECTORS = QUANT_MATMUL_DECODE_VECTORS;

template <class Args>
void write(const Args* a, int64_t row, int64_t tile, f32x16 value) {
    int64_t column = tile * LANES, n = a->N - column;
    float* out = a->out + row * a->out_stride + column;
    if (n >= LANES) {
        store(out, a->bias ? value + load(a->bias + column) : value);
    } else {
        store_first(out, a->bias ? value + load_first(a->bias + column, n) : value, n);
    }
}

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
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) write(a, row + r, tile + v, acc[r][v] * broadcast(a->x_scales[row + r]));
}

struct Float {
    template <int R, int V, class Args, class W>
    static void tile(const Args* a, const W& w, int64_t row, int64_t tile) { multiply<R, V>(a, w, row, tile); }
};
struct Int8Dot {
    template <int R, int V, class Args, class W>
    static void tile(const Args* a, const W& w, int64_t row, int64_t tile) { multiply_int8<R, V>(a, w, row, tile); }
};

// Rows in tiles of R, then R / 2, down to 1.
template <class Kind, int R, int V, class Args, class W>
void all_rows(const Args* a, const W& w, int64_t row, int64_t tile) {
    for (; row + R <= *a->T; row += R) Kind::template tile<R, V>(a, w, row, tile);
    if constexpr (R > 1) all_rows<Kind, R / 2, V>(a, w, row, tile);
}

template <class Kind, int R, int V, class Args, class W>
void tiles(const Args* a, const W& w, Range range) {
    int64_t tile = range.begin;
    for (; tile + V <= range.end; tile += V) all_rows<Kind, R, V>(a, w, 0, tile);
    if constexpr (V > 1) tiles<Kind, R, V / 2>(a, w, {tile, range.end});
}

template <class Kind, class Args, class W>
void run(const Args* a, const W& w, int rank, int world) {
    Range range = share((a->N + LANES - 1) / LANES, rank, world);
    if (*a->T == 1) return tiles<Kind, 1, DECODE_VECTORS>(a, w, range);
    tiles<Kind, ROWS, VECTORS>(a, w, range);
}

}  // namespace

#define ENTRY(variant, kind, weights) \
    void quant_matmul_##variant(const quant_matmul_##variant##_args* a, int rank, int world) { \
        run<kind>(a, weights(a, a->K), rank, world); \
    }
ENTRY(fp32, Float, plain<float>)
ENTRY(bf16, Float, plain<bf16>)
ENTRY(int8, Float, int8)
ENTRY(int4_sym, Float, int4_sym)
ENTRY(int4_asym, Float, int4_asym)
ENTRY(int8_a8, Int8Dot, int8_a8)
ENTRY(int4_sym_a8, Int8Dot, int4_sym_a8)
ENTRY(int4_asym_a8, Int8Dot, int4_asym_a8)
