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
[[maybe_unused]] constexpr int64_t SHARED_ROWS = QUANT_MATMUL_SHARED_ROWS;
[[maybe_unused]] constexpr int64_t PANEL_BYTES = QUANT_MATMUL_PANEL_KIB << 10;

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

#if defined(CF_TILES)

// Products of int8 activations by matrix tiles, for many rows: blocks of up to 2 tiles of rows by 2 row tiles of W. The integer
// dot products of a group are exact and join in the order of `multiply_int8`, so results are the same to the bit.
//
// W is taken in panels that stay in the second-level cache while all rows pass over them, unpacked there if it is packed; a
// block of rows stays in the first-level cache while the panel's row tiles pass over it, and its results are written side by side.
template <class Args, class W>
class TiledRows {
public:
    TiledRows(const Args* a, const W& w)
        : a(a), w(w), K(a->K), group_size(w.group_size()), depth(group_size % TILE_BYTES ? TILE_BYTES / 2 : TILE_BYTES) {}
    ~TiledRows() { release_tiles(); }

    // Some rows by some row tiles of W.
    void multiply(Range tiles, Range of_rows) {
        first_row = of_rows.begin;
        // Few rows soon have passed: then an unpacked panel stays in the first-level cache.
        const int64_t bytes = *a->T <= 4 * TILE_ROWS ? 0 : PANEL_BYTES;
        const int64_t fitting = bytes / (K * LANES) / 2 * 2, count = fitting > 2 ? fitting : 2;
        for (int64_t begin = tiles.begin; begin < tiles.end; begin += count) {
            const Range panel{begin, begin + count < tiles.end ? begin + count : tiles.end};
            const Quads quads = centred_quads(w, panel, room);
            const int64_t step = group_size < K ? TILE_ROWS : 2 * TILE_ROWS;
            for (int64_t row = of_rows.begin; row < of_rows.end; row += step) {
                const int64_t rows = of_rows.end - row < step ? of_rows.end - row : step;
                shape_for(rows);
                if (group_size < K) {
                    for (int64_t tile = panel.begin; tile < panel.end; ++tile)
                        grouped(quads + (tile - panel.begin) * K * LANES, row, rows, tile);
                } else if (rows > TILE_ROWS) {
                    blocks<2>(quads, panel, row, rows);
                } else {
                    blocks<1>(quads, panel, row, rows);
                }
            }
        }
    }

private:
    typedef const typename W::Byte* Quads;

    const Args* a;
    const W& w;
    const int64_t K, group_size, depth;  // of a tile, in k
    int64_t shaped_for = 0, first_row = 0;
    static thread_local std::vector<int8_t> room;

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

    // A tile of rows by a row tile of W in groups. The sums stay in registers, which hold no more than those.
    void grouped(Quads quads, int64_t row, int64_t rows, int64_t tile) {
        alignas(64) uint32_t dots[4][TILE_ROWS * LANES];
        f32x16 sum[TILE_ROWS] = {};
        int64_t group = 0;
        for (; (group + 4) * group_size <= K; group += 4) {
            multiply_group<0, 4, 6>(quads, row, group);
            multiply_group<1, 5, 7>(quads, row, group + 1);
            multiply_group<2, 4, 6>(quads, row, group + 2);
            multiply_group<3, 5, 7>(quads, row, group + 3);
            store_tile<0>(dots[0], TILE_BYTES);
            store_tile<1>(dots[1], TILE_BYTES);
            store_tile<2>(dots[2], TILE_BYTES);
            store_tile<3>(dots[3], TILE_BYTES);
#pragma GCC unroll 4
            for (int g = 0; g < 4; ++g) join(dots[g], w.scale(tile, group + g), sum);
        }
        for (; group * group_size < K; ++group) {
            multiply_group<0, 4, 6>(quads, row, group);
            store_tile<0>(dots[0], TILE_BYTES);
            join(dots[0], w.scale(tile, group), sum);
        }
        const float* scales = a->x_scales + row;
        if (rows == TILE_ROWS && !a->bias && (tile + 1) * LANES <= a->N) {
            float* out = a->out + row * a->out_stride + tile * LANES;
            const int64_t stride = a->out_stride;
#pragma GCC unroll 16
            for (int r = 0; r < TILE_ROWS; ++r) store(out + r * stride, sum[r] * broadcast(scales[r]));
        } else {
            alignas(64) float kept[TILE_ROWS][LANES];  // so that the sums need no memory above
#pragma GCC unroll 16
            for (int r = 0; r < TILE_ROWS; ++r) store(kept[r], sum[r]);
            for (int64_t r = 0; r < rows; ++r) write(a, row + r, tile, load(kept[r]) * broadcast(scales[r]));
        }
    }

    // The dot products of a group, in tile C.
    template <int C, int X, int QUADS>
    void multiply_group(Quads quads, int64_t row, int64_t group) {
        const int64_t stride = a->x_codes_stride, end = (group + 1) * group_size, depth = this->depth;
        const int8_t* x = a->x_codes + row * stride;
        clear_tile<C>();
        for (int64_t k = group * group_size; k < end; k += depth) {
            load_tile<X>(x + k, stride);
            load_tile<QUADS>(quads + k * LANES, TILE_BYTES);
            add_product<C, X, QUADS>(quads);
        }
    }

    static void join(const uint32_t* dots, f32x16 scale, f32x16* sum) {
#pragma GCC unroll 16
        for (int r = 0; r < TILE_ROWS; ++r) sum[r] = fma(scale, to_float(load(dots + r * LANES)), sum[r]);
    }

    // R tiles of rows by all row tiles of the panel, K one group.
    template <int R>
    void blocks(Quads quads, Range panel, int64_t row, int64_t rows) {
        int64_t tile = panel.begin;
        for (; tile + 2 <= panel.end; tile += 2, quads += 2 * K * LANES) block<R, 2>(quads, row, rows, tile);
        if (tile < panel.end) block<R, 1>(quads, row, rows, tile);
    }

    template <int R, int V>
    void block(Quads quads, int64_t row, int64_t rows, int64_t tile) {
        alignas(64) uint32_t dots[2][2 * TILE_ROWS * LANES];  // of two row tiles of W
        clear_tile<0>();
        if constexpr (V > 1) clear_tile<1>();
        if constexpr (R > 1) clear_tile<2>();
        if constexpr (R > 1 && V > 1) clear_tile<3>();
        const int64_t stride = a->x_codes_stride, wide = K * LANES, depth = this->depth;
        const int8_t* x = a->x_codes + row * stride;
        for (int64_t k = 0; k < K; k += depth) {
            if (row == first_row)  // The first rows meet W in memory: the next row tiles come while vectors are written.
                for (int64_t byte = 0; byte < depth * LANES; byte += TILE_BYTES) {
                    __builtin_prefetch(quads + 2 * wide + k * LANES + byte, 0, 2);
                    __builtin_prefetch(quads + 3 * wide + k * LANES + byte, 0, 2);
                }
            load_tile<4>(x + k, stride);
            load_tile<6>(quads + k * LANES, TILE_BYTES);
            add_product<0, 4, 6>(quads);
            if constexpr (V > 1) {
                load_tile<7>(quads + wide + k * LANES, TILE_BYTES);
                add_product<1, 4, 7>(quads);
            }
            if constexpr (R > 1) {
                load_tile<5>(x + TILE_ROWS * stride + k, stride);
                add_product<2, 5, 6>(quads);
                if constexpr (V > 1) add_product<3, 5, 7>(quads);
            }
        }
        store_tile<0>(dots[0], TILE_BYTES);
        if constexpr (V > 1) store_tile<1>(dots[1], TILE_BYTES);
        if constexpr (R > 1) store_tile<2>(dots[0] + TILE_ROWS * LANES, TILE_BYTES);
        if constexpr (R > 1 && V > 1) store_tile<3>(dots[1] + TILE_ROWS * LANES, TILE_BYTES);
        for (int v = 0; v < V; ++v) finish(dots[v], row, rows, tile + v);
    }

    // Dot products of a whole K -> out.
    void finish(const uint32_t* dots, int64_t row, int64_t rows, int64_t tile) {
        const f32x16 scale = w.scale(tile, 0);
        const float* scales = a->x_scales + row;
        const int64_t sums_stride = a->x_sums_stride, stride = a->out_stride;
        const int32_t* x_sums = a->x_sums + row * sums_stride + K / 32 - 1;
        auto value = [=](int64_t r) {
            i32x16 dot = load(dots + r * LANES);
            if constexpr (!W::IS_CENTRED) dot = W::centred(dot, broadcast(int32_t(128)), x_sums[r * sums_stride]);
            return fma(scale, to_float(dot), zero()) * broadcast(scales[r]);
        };
        if (a->bias || (tile + 1) * LANES > a->N) {
            for (int64_t r = 0; r < rows; ++r) write(a, row + r, tile, value(r));
        } else {
            float* out = a->out + row * stride + tile * LANES;
#pragma GCC unroll 4
            for (int64_t r = 0; r < rows; ++r) store(out + r * stride, value(r));
        }
    }
};
template <class Args, class W>
thread_local std::vector<int8_t> TiledRows<Args, W>::room;

#endif

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

// From so many rows on, two-level weights are unpacked first, to be multiplied as int8 ones: the same integers.
constexpr int UNPACKED_ROWS = 8;

template <class Args, class W>
void run_unpacked(const Args* a, const W& w, Range range) {
    thread_local std::vector<int8_t> room;
    for (int64_t tile = range.begin; tile < range.end; tile += VECTORS) {
        const Range some{tile, tile + VECTORS < range.end ? tile + VECTORS : range.end};
        unpack_quads(w, some, 128, room);
        tiles<Int8Dot, ROWS, VECTORS>(a, Int8A8{(const uint8_t*)room.data(), w.scales, a->K, tile}, some);
    }
}

#if defined(CF_TILES)
// Threads share out row tiles of W; or rows, once they are many: what a thread then writes, it reads in the next call. Weights
// that are unpacked are so once, by one thread.
template <class Args, class W>
void run_tiled(const Args* a, const W& w, int rank, int world) {
    const int64_t T = *a->T, tiles = (a->N + LANES - 1) / LANES;
    if (T < SHARED_ROWS || W::IS_CENTRED) return TiledRows<Args, W>(a, w).multiply(share(tiles, rank, world), {0, T});
    constexpr int64_t AT_ONCE = 2 * TILE_ROWS;
    const Range blocks = share((T + AT_ONCE - 1) / AT_ONCE, rank, world);
    const int64_t end = blocks.end * AT_ONCE < T ? blocks.end * AT_ONCE : T;
    TiledRows<Args, W>(a, w).multiply({0, tiles}, {blocks.begin * AT_ONCE, end});
}
#endif

template <class Kind, class Args, class W>
void run(const Args* a, const W& w, int rank, int world) {
    Range range = share((a->N + LANES - 1) / LANES, rank, world);
    if (*a->T == 1) return tiles<Kind, 1, DECODE_VECTORS>(a, w, range);
#if defined(CF_TILES)
    if constexpr (Kind::IS_INTEGER) {
        // Groups join by vectors and packed weights are unpacked, so there tiles pay later.
        const int times = w.group_size() < a->K ? 4 : W::IS_CENTRED ? 2 : 1;
        if (*a->T >= times * TILED_ROWS) return run_tiled(a, w, rank, world);
    }
#endif
    if constexpr (std::is_same_v<Kind, TwoLevelDot>) {
        if (*a->T >= UNPACKED_ROWS) return run_unpacked(a, w, range);
        return tiles<Kind, ROWS < 4 ? ROWS : 4, VECTORS>(a, w, range);
    }
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
ENTRY(int4_twolevel, Float, int4_twolevel)
ENTRY(int4_twolevel_a8, TwoLevelDot, int4_twolevel_a8)
