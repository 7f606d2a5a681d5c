// out[t, n] = sum_k x[t, k] W[n, k] (+ bias[n]).
//
// A register tile is R rows of x by V row tiles of W. Each output element is one chain of fused multiply-adds in
// ascending k, whatever R, V, the batch and the team are, so none of them can change a bit of it. The loop over row
// tiles of x is inside the one over W, so that a panel of W stays in the cache while all rows pass over it.
#include <type_traits>
#include <vector>

#include "../cpu/team.h"
#include "../cpu/tiles.h"
#include "../cpu/weights.h"
#include "args.h"

using namespace cf;

namespace {

constexpr int ROWS = QUANT_MATMUL_ROWS, VECTORS = QUANT_MATMUL_VECTORS, DECODE_VECTORS = QUANT_MATMUL_DECODE_VECTORS;
[[maybe_unused]] constexpr int TILED_ROWS = QUANT_MATMUL_TILED_ROWS;

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
                acc[r][v] = fma(scale, to_float(W::centred(dot[r][v], zero, -sum_x[r])), acc[r][v]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) write(a, row + r, tile + v, acc[r][v] * broadcast(a->x_scales[row + r]));
}

#if defined(CF_TILES)

// Products of int8 activations by matrix tiles, for many rows: blocks of up to 2 tiles of rows by 2 row tiles of W. The integer
// dot products of a group are exact and join in the order of `multiply_int8`, so results are the same to the bit.
template <class Args, class W>
class TiledRows {
public:
    TiledRows(const Args* a, const W& w)
        : a(a), w(w), depth(w.group_size() % TILE_BYTES || w.group_size() < TILE_BYTES ? TILE_BYTES / 2 : TILE_BYTES) {
        minus_sums.resize(*a->T * num_groups());
        for (int64_t t = 0; t < *a->T; ++t) {
            const int32_t* sums = a->x_sums + t * a->x_sums_stride;
            int32_t before = 0;
            for (int64_t group = 0; group < num_groups(); ++group) {
                const int32_t now = sums[(group + 1) * w.group_size() / 32 - 1];
                minus_sums[group * *a->T + t] = before - now;
                before = now;
            }
        }
    }
    ~TiledRows() { release_tiles(); }

    // All rows by V row tiles of W.
    template <int V>
    void multiply(int64_t tile) {
        const uint8_t* panel[V];
        for (int v = 0; v < V; ++v) panel[v] = quads(tile + v, v);
        int64_t row = 0;
        for (; row + 2 * TILE_ROWS <= *a->T; row += 2 * TILE_ROWS) block<2, V>(panel, row, tile, 2 * TILE_ROWS);
        if (const int64_t rest = *a->T - row; rest > TILE_ROWS) {
            block<2, V>(panel, row, tile, rest);
        } else if (rest > 0) {
            block<1, V>(panel, row, tile, rest);
        }
    }

private:
    const Args* a;
    const W& w;
    const int64_t depth;  // of a tile, in k
    int64_t shaped_for = 0;
    static thread_local std::vector<int32_t> minus_sums;
    static thread_local std::vector<uint8_t> unpacked;

    int64_t num_groups() const { return a->K / w.group_size(); }

    // A row tile of W as four k of 16 channels in 64 bytes: where it lies, or unpacked to room `v`.
    const uint8_t* quads(int64_t tile, int v) {
        if constexpr (W::STEP == 4) return w.codes + tile * a->K * LANES;
        unpacked.resize(2 * a->K * LANES);
        uint8_t* out = unpacked.data() + v * a->K * LANES;
        for (int64_t k = 0; k < a->K; k += W::STEP) {
            const i32x16 word = w.word(tile, k);
            for (int j = 0; j < W::STEP / 4; ++j) store((uint32_t*)(out + (k + 4 * j) * LANES), w.quad(word, j));
        }
        return out;
    }

    void shape_for(int64_t rows) {
        if (shaped_for == rows) return;
        shaped_for = rows;
        TileShapes shapes;
        const int64_t first = rows < TILE_ROWS ? rows : TILE_ROWS, second = rows > TILE_ROWS ? rows - TILE_ROWS : first;
        for (int v = 0; v < 2; ++v) {
            shapes.set(v, first, TILE_BYTES);
            shapes.set(2 + v, second, TILE_BYTES);
            shapes.set(6 + v, depth / 4, TILE_BYTES);
        }
        shapes.set(4, first, depth);
        shapes.set(5, second, depth);
        set_shapes(shapes);
    }

    template <int R, int V>
    void block(const uint8_t* const* panel, int64_t row, int64_t tile, int64_t rows) {
        alignas(64) int32_t dot[V][2 * TILE_ROWS][LANES];
        alignas(64) float acc[V][2 * TILE_ROWS][LANES];
        shape_for(rows);
        for (int64_t group = 0; group < num_groups(); ++group) {
            dots<R, V>(panel, row, group, dot);
            const int32_t* minus_sum = minus_sums.data() + group * *a->T + row;
            for (int v = 0; v < V; ++v) {
                const f32x16 scale = w.scale(tile + v, group);
                const i32x16 zero = w.zero(tile + v, group);
                for (int64_t r = 0; r < rows; ++r) {
                    const i32x16 centred = W::centred(load((const uint32_t*)dot[v][r]), zero, minus_sum[r]);
                    store(acc[v][r], fma(scale, to_float(centred), group ? load(acc[v][r]) : cf::zero()));
                }
            }
        }
        for (int64_t r = 0; r < rows; ++r)
            for (int v = 0; v < V; ++v) write(a, row + r, tile + v, load(acc[v][r]) * broadcast(a->x_scales[row + r]));
    }

    template <int R, int V>
    void dots(const uint8_t* const* panel, int64_t row, int64_t group, int32_t (*dot)[2 * TILE_ROWS][LANES]) {
        clear_tile<0>();
        if (V > 1) clear_tile<1>();
        if (R > 1) clear_tile<2>();
        if (R > 1 && V > 1) clear_tile<3>();
        const int8_t* x = a->x_codes + row * a->x_codes_stride;
        const int64_t end = (group + 1) * w.group_size();
        for (int64_t k = group * w.group_size(); k < end; k += depth) {
            load_tile<4>(x + k, a->x_codes_stride);
            load_tile<6>(panel[0] + k * LANES, TILE_BYTES);
            add_product_int8<0, 4, 6>();
            if constexpr (V > 1) {
                load_tile<7>(panel[1] + k * LANES, TILE_BYTES);
                add_product_int8<1, 4, 7>();
            }
            if constexpr (R > 1) {
                load_tile<5>(x + TILE_ROWS * a->x_codes_stride + k, a->x_codes_stride);
                add_product_int8<2, 5, 6>();
                if constexpr (V > 1) add_product_int8<3, 5, 7>();
            }
        }
        store_tile<0>(dot[0], TILE_BYTES);
        if constexpr (V > 1) store_tile<1>(dot[1], TILE_BYTES);
        if constexpr (R > 1) store_tile<2>(dot[0] + TILE_ROWS, TILE_BYTES);
        if constexpr (R > 1 && V > 1) store_tile<3>(dot[1] + TILE_ROWS, TILE_BYTES);
    }
};
template <class Args, class W>
thread_local std::vector<int32_t> TiledRows<Args, W>::minus_sums;
template <class Args, class W>
thread_local std::vector<uint8_t> TiledRows<Args, W>::unpacked;

#endif

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
#if defined(CF_TILES)
    if constexpr (std::is_same_v<Kind, Int8Dot>) {
        if (*a->T >= TILED_ROWS) {
            TiledRows<Args, W> rows(a, w);
            int64_t tile = range.begin;
            for (; tile + 2 <= range.end; tile += 2) rows.template multiply<2>(tile);
            if (tile < range.end) rows.template multiply<1>(tile);
            return;
        }
    }
#endif
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
