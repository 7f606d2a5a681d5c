// Attention over a bf16 cache with matrix tiles: a strip is up to 16 rows, scores are Q K^T of 16 positions to a tile, and
// weights times values are tiles of 16 dimensions. The sums of weights are a product too, with ones for values.
//
// Operands lie in the cache as a product takes them, pairs side by side. Values that do not are brought into that order
// first: a tile spans 32 positions, which a block of 16 or 48 does not hold together, or dimensions are no multiple of 16.
#pragma once
#include "../cpu/tiles.h"
#include "item.h"

#if defined(CF_TILES)

namespace cf {

template <class Args>
class Tiled {
public:
    static constexpr int64_t STRIP = TILE_ROWS;

    explicit Tiled(const Args* a) : item{a}, D(a->D), depth(largest_step(D / 2)) {}
    ~Tiled() { release_tiles(); }

    void take(const Item<bf16, Args>& next) {
        item = next;
        end = item.last(item.rows() - 1) + 1;
        laid_out = -1;
        queries = query_room.of(item.rows() * query_stride());
        for (int64_t row = 0; row < item.rows(); ++row)
            for (int64_t d = 0; d < D; d += 2 * LANES)
                store(queries + row * query_stride() + d, query(row, d), query(row, d + LANES));
    }

    // What the chunk gives to the rows from `row` on.
    void attend(int64_t row, int64_t rows, int64_t chunk, Part part) {
        alignas(64) float scores[TILE_ROWS * CHUNK];
        alignas(64) bf16 weights[TILE_ROWS * CHUNK];
        const int64_t begin = chunk * CHUNK, behind = item.last(row + rows - 1) + 1;
        const int64_t count = behind - begin < CHUNK ? behind - begin : CHUNK;
        shape_for(rows);
        score(row, begin, count, scores);
        weigh(row, rows, begin, scores, weights, part);
        lay_out_values(begin);
        mix(count, weights, part);
        add_up(rows, count, weights, part.sum);
    }

private:
    // Positions that a product of weights and values spans.
    static constexpr int64_t STEP = 32;
    // Tiles: 0 to 3 are sums, then each operand of the scores and of the values.
    enum { QUERIES = 4, KEYS, WEIGHTS, VALUES };
    struct Values {
        const bf16* at;
        int64_t stride;
    };

    Item<bf16, Args> item;
    const int64_t D, depth;  // depth: of a tile of keys, in pairs of dimensions
    int64_t end = 0;         // of the positions that rows of the item see
    bf16* queries = nullptr;
    Values values[CHUNK / STEP];
    int64_t laid_out = -1, shaped_for = 0;
    static inline thread_local Room<bf16> query_room, value_room;

    // Steps are alike, so that one shape of tile serves them all.
    static int64_t largest_step(int64_t pairs) {
        int64_t step = pairs < TILE_ROWS ? pairs : TILE_ROWS;
        while (pairs % step) --step;
        return step;
    }

    int64_t query_stride() const { return (D + 2 * LANES - 1) / (2 * LANES) * (2 * LANES); }
    f32x16 query(int64_t row, int64_t d) const {
        return d >= D ? zero() : load_first(item.query(row) + d, D - d < LANES ? int(D - d) : LANES);
    }

    void shape_for(int64_t rows) {
        if (shaped_for == rows) return;
        shaped_for = rows;
        TileShapes shapes;
        for (int tile = 0; tile < 4; ++tile) shapes.set(tile, rows, TILE_BYTES);
        shapes.set(QUERIES, rows, depth * 4);
        shapes.set(KEYS, depth, TILE_BYTES);
        shapes.set(WEIGHTS, rows, TILE_BYTES);
        shapes.set(VALUES, TILE_ROWS, TILE_BYTES);
        set_shapes(shapes);
    }

    // q K^T of the first `count` positions, in whole tiles of 16: scores [rows, CHUNK].
    void score(int64_t row, int64_t begin, int64_t count, float* scores) {
        const int64_t stride = item.a->block_size * 4;
        const bf16* keys[4] = {};
        for (int64_t at = 0; at < count; at += LANES) keys[at / LANES] = item.keys(begin + at);
        clear_tile<0>(), clear_tile<1>(), clear_tile<2>(), clear_tile<3>();
        for (int64_t d = 0; d < D; d += 2 * depth) {
            load_tile<QUERIES>(queries + row * query_stride() + d, query_stride() * 2);
            score_tile<0>(keys, d, stride);
            score_tile<1>(keys, d, stride);
            score_tile<2>(keys, d, stride);
            score_tile<3>(keys, d, stride);
        }
        store_tile<0>(scores, CHUNK * 4);
        store_tile<1>(scores + LANES, CHUNK * 4);
        store_tile<2>(scores + 2 * LANES, CHUNK * 4);
        store_tile<3>(scores + 3 * LANES, CHUNK * 4);
    }
    template <int T>
    void score_tile(const bf16* const* keys, int64_t d, int64_t stride) {
        if (!keys[T]) return;
        load_tile<KEYS>(keys[T] + d / 2 * stride / 2, stride);
        add_product_bf16<T, QUERIES, KEYS>();
    }

    void weigh(int64_t row, int64_t rows, int64_t begin, const float* scores, bf16* weights, Part part) {
        const float unit = float(item.a->scale) * Softmax<bf16>::UNIT;
        const f32x16 units = broadcast(unit);
        const bool all_seen = item.first(row + rows - 1) <= begin && item.last(row) >= begin + CHUNK - 1;
        for (int64_t r = 0; r < rows; ++r) {
            f32x16 s[4];
            for (int v = 0; v < 4; ++v) s[v] = load(scores + r * CHUNK + v * LANES);
            if (!all_seen) {
                const int64_t first = item.first(row + r) - begin, last = item.last(row + r) - begin;
                for (int v = 0; v < 4; ++v) s[v] = only(s[v], first - v * LANES, last - v * LANES);
            }
            part.most[r] = max(max(max(s[0], s[1]), max(s[2], s[3]))) * unit;
            const f32x16 top = broadcast(-part.most[r]);
            for (int v = 0; v < 4; ++v) s[v] = exp2_for_bf16(fma(s[v], units, top));
            store(weights + r * CHUNK, s[0], s[1]);
            store(weights + r * CHUNK + STEP, s[2], s[3]);
        }
    }

    // Where the values of each step lie; positions that the sequence has not reached are zeros.
    void lay_out_values(int64_t begin) {
        if (laid_out == begin) return;
        laid_out = begin;
        const int64_t block_size = item.a->block_size, width = (D + LANES - 1) / LANES * LANES;
        for (int64_t step = 0; step < CHUNK / STEP && begin + step * STEP < end; ++step) {
            const int64_t from = begin + step * STEP, to = from + STEP;
            if (block_size % STEP == 0 && D == width && to <= end) {
                values[step] = {item.values(from), D * 4};
                continue;
            }
            uint32_t* pairs = (uint32_t*)value_room.of(CHUNK * width) + step * STEP / 2 * width;
            values[step] = {(const bf16*)pairs, width * 4};
            for (int64_t at = from; at < to; at += LANES) {
                const uint32_t* in_block = at < end ? (const uint32_t*)item.values(at) : nullptr;
                for (int64_t i = 0; i < LANES; i += 2, pairs += width)
                    copy_pairs(pairs, at + i < end ? in_block + i / 2 * D : nullptr, at + i + 1 < end);
            }
        }
    }
    void copy_pairs(uint32_t* to, const uint32_t* from, bool both) const {
        const i32x16 kept = broadcast(int32_t(both ? 0xffffffff : 0x0000ffff));
        for (int64_t d = 0; d < D; d += LANES) {
            const int n = D - d < LANES ? int(D - d) : LANES;
            store(to + d, from ? load_first(from + d, n) & kept : broadcast(int32_t(0)));
        }
    }

    // Weights times values, four tiles of dimensions at a time.
    void mix(int64_t count, const bf16* weights, Part part) {
        for (int64_t d = 0; d < D; d += 4 * LANES) {
            const int64_t num_tiles = (D - d + LANES - 1) / LANES;
            clear_tile<0>(), clear_tile<1>(), clear_tile<2>(), clear_tile<3>();
            for (int64_t step = 0; step * STEP < count; ++step) {
                load_tile<WEIGHTS>(weights + step * STEP, CHUNK * 2);
                mix_tile<0>(values[step], d, num_tiles);
                mix_tile<1>(values[step], d, num_tiles);
                mix_tile<2>(values[step], d, num_tiles);
                mix_tile<3>(values[step], d, num_tiles);
            }
            float* out = part.out + d;
            store_tile<0>(out, part.stride * 4);
            if (num_tiles > 1) store_tile<1>(out + LANES, part.stride * 4);
            if (num_tiles > 2) store_tile<2>(out + 2 * LANES, part.stride * 4);
            if (num_tiles > 3) store_tile<3>(out + 3 * LANES, part.stride * 4);
        }
    }
    template <int T>
    void mix_tile(Values of_step, int64_t d, int64_t num_tiles) {
        if (T >= num_tiles) return;
        load_tile<VALUES>(of_step.at + (d + T * LANES) * 2, of_step.stride);
        add_product_bf16<T, WEIGHTS, VALUES>();
    }

    void add_up(int64_t rows, int64_t count, const bf16* weights, float* sum) {
        alignas(64) static constexpr Ones ones;
        alignas(64) float sums[TILE_ROWS * LANES];
        clear_tile<0>();
        load_tile<VALUES>(ones.pairs, 0);
        for (int64_t step = 0; step * STEP < count; ++step) {
            load_tile<WEIGHTS>(weights + step * STEP, CHUNK * 2);
            add_product_bf16<0, WEIGHTS, VALUES>();
        }
        store_tile<0>(sums, TILE_BYTES);
        for (int64_t r = 0; r < rows; ++r) sum[r] = sums[r * LANES];
    }
    // A row of a tile.
    struct Ones {
        uint32_t pairs[LANES];
        constexpr Ones() : pairs() {
            for (uint32_t& pair : pairs) pair = 0x3f803f80;
        }
    };
};

}  // namespace cf
#endif
