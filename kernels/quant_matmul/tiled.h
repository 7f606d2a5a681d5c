// The matrix product by matrix tiles.
#pragma once
#include <vector>

#include "../cpu/team.h"
#include "../cpu/tiles.h"
#include "rows.h"

#if defined(CF_TILES)

namespace cf {

// Products of int8 activations by matrix tiles, for many rows: blocks of up to 2 tiles of rows by 2 row tiles of W. The integer
// dot products of a group are exact and join in the order of `multiply_int8`, so results are the same to the bit.
//
// W is taken in panels that stay in the second-level cache while all rows pass over them, unpacked there if it is packed; a
// block of rows stays in the first-level cache while the panel's row tiles pass over it, and its results are written side by side.
template <int64_t PANEL_BYTES, class Args, class W>
class TiledProduct {
public:
    TiledProduct(const Args* a, const W& w)
        : a(a), w(w), K(a->K), group_size(w.group_size()), depth(group_size % TILE_BYTES ? TILE_BYTES / 2 : TILE_BYTES) {}
    ~TiledProduct() { release_tiles(); }

    // Some rows by some row tiles of W.
    void multiply(Range tiles, Range of_rows) {
        first_row = of_rows.begin;
        // Few rows soon have passed: then an unpacked panel stays in the first-level cache.
        const int64_t bytes = num_rows<W>(a) <= 4 * TILE_ROWS ? 0 : PANEL_BYTES;
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
        constexpr int EACH = W::ROWS_PER_TOKEN;
        const int64_t token = row / EACH, tokens = rows / EACH;
        const f32x16 scale = w.scale(tile, 0);
        const float* scales = a->x_scales + token;
        const int64_t sums_stride = a->x_sums_stride, stride = a->out_stride;
        const int32_t* x_sums = a->x_sums + row * sums_stride + K / 32 - 1;
        auto of_row = [=](int64_t r) {
            i32x16 dot = load(dots + r * LANES);
            if constexpr (!W::IS_CENTRED) dot = W::centred(dot, broadcast(int32_t(128)), x_sums[r * sums_stride]);
            return fma(scale, to_float(dot), zero());
        };
        auto value = [=](int64_t t) { return joined<W>(of_row(EACH * t), of_row(EACH * t + EACH - 1)) * broadcast(scales[t]); };
        if (a->bias || (tile + 1) * LANES > a->N) {
            for (int64_t t = 0; t < tokens; ++t) write(a, token + t, tile, value(t));
        } else {
            float* out = a->out + token * stride + tile * LANES;
#pragma GCC unroll 4
            for (int64_t t = 0; t < tokens; ++t) store(out + t * stride, value(t));
        }
    }
};
template <int64_t PANEL_BYTES, class Args, class W>
thread_local std::vector<int8_t> TiledProduct<PANEL_BYTES, Args, W>::room;

}  // namespace cf
#endif
