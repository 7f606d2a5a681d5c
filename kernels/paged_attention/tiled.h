// Attention over a bf16 cache with matrix tiles: a strip is up to 16 rows, scores are q K^T of 16 positions to a tile, and
// weights times values are tiles of 16 dimensions. The sums of weights are a product too, with ones for values.
//
// Operands lie in the cache as a product takes them, pairs side by side, 16 rows to a tile. What does not is brought into that
// order first: keys of less than 32 dimensions, and values where a block of 16 or 48 does not hold the 32 positions of a tile
// together or dimensions are no multiple of 16.
#pragma once
#include "../cpu/tiles.h"
#include "item.h"

#if defined(CF_TILES)

namespace cf {

template <class Args>
class Tiled {
public:
    static constexpr int64_t STRIP = TILE_ROWS;

    explicit Tiled(const Args* a) : item{a}, D(a->D), num_steps((D + DEPTH - 1) / DEPTH) {}
    ~Tiled() { release_tiles(); }

    void take(const Item<bf16, Args>& next) {
        item = next;
        end = item.last(item.rows() - 1) + 1;
        laid_out = -1;
        queries = query_room.of(item.rows() * num_steps * DEPTH);
        for (int64_t row = 0; row < item.rows(); ++row) {
            const float* q = item.query(row);
            for (int64_t step = 0; step < num_steps; ++step)
                store(queries + (row * num_steps + step) * DEPTH, query(q, step, 0), query(q, step, LANES));
        }
    }

    // What the chunk gives to the rows from `row` on.
    void attend(int64_t row, int64_t rows, int64_t chunk, Part part) {
        alignas(64) float scores[TILE_ROWS * CHUNK];
        alignas(64) bf16 weights[TILE_ROWS * CHUNK];
        const int64_t begin = chunk * CHUNK, behind = item.last(row + rows - 1) + 1;
        const int64_t count = behind - begin < CHUNK ? behind - begin : CHUNK;
        shape_for(rows);
        lay_out(begin);
        score(row, count, scores);
        weigh(row, rows, begin, scores, weights, part);
        mix(rows, count, weights, part);
    }

private:
    // What a product spans: dimensions of keys, positions of values.
    static constexpr int64_t DEPTH = 32;
    // Tiles 0 to 3 are sums; two of each operand, so that one is loaded while the other is in use.
    enum { LEFT = 4, RIGHT = 6 };
    struct Operand {
        const uint32_t* pairs;
        int64_t stride;  // in bytes
        Operand from(int64_t row) const { return {pairs + row * stride / 4, stride}; }
    };

    Item<bf16, Args> item;
    const int64_t D, num_steps;  // of keys
    int64_t end = 0;             // of the positions that rows of the item see
    bf16* queries = nullptr;
    Operand keys[CHUNK / LANES], values[CHUNK / DEPTH];
    int64_t laid_out = -1, shaped_for = 0;
    static inline thread_local Room<bf16> query_room;
    static inline thread_local Room<uint32_t> key_room, value_room;

    // The first dimension of a step: the last step overlaps the one before, where D is no multiple of its depth.
    int64_t start_of(int64_t step) const { return step + 1 < num_steps || D < DEPTH ? step * DEPTH : D - DEPTH; }
    // Sixteen dimensions of a step, zeros for those that an earlier step has or that there are not.
    f32x16 query(const float* q, int64_t step, int64_t offset) const {
        const int64_t begin = start_of(step) + offset, done = step * DEPTH - begin, left = D - begin;
        if (done >= LANES || left <= 0) return zero();
        const f32x16 x = load_first(q + begin, left < LANES ? int(left) : LANES);
        return done > 0 ? where(lanes(done, LANES), x, zero()) : x;
    }

    void shape_for(int64_t rows) {
        if (shaped_for == rows) return;
        shaped_for = rows;
        TileShapes shapes;
        for (int tile = 0; tile < RIGHT; ++tile) shapes.set(tile, rows, TILE_BYTES);
        for (int tile = RIGHT; tile < RIGHT + 2; ++tile) shapes.set(tile, TILE_ROWS, TILE_BYTES);
        set_shapes(shapes);
    }

    // One or two tiles of products, summed over steps in ascending order: out [rows, 16 num_tiles].
    template <int SUM, class Left, class Right>
    static void multiply(int64_t num_tiles, int64_t num_steps, Left left, Right right, float* out, int64_t stride) {
        clear_tile<SUM>();
        clear_tile<SUM + 1>();
        const auto add = [&](auto of_left, int64_t step) {
            const Operand q = left(step), first = right(0, step);
            load_tile<of_left.value>(q.pairs, q.stride);
            load_tile<RIGHT>(first.pairs, first.stride);
            add_product_bf16<SUM, of_left.value, RIGHT>();
            if (num_tiles < 2) return;
            const Operand second = right(1, step);
            load_tile<RIGHT + 1>(second.pairs, second.stride);
            add_product_bf16<SUM + 1, of_left.value, RIGHT + 1>();
        };
        for (int64_t step = 0; step < num_steps; step += 2) {
            add(std::integral_constant<int, LEFT>{}, step);
            if (step + 1 < num_steps) add(std::integral_constant<int, LEFT + 1>{}, step + 1);
        }
        store_tile<SUM>(out, stride * 4);
        if (num_tiles > 1) store_tile<SUM + 1>(out + LANES, stride * 4);
    }
    // Tiles [0, num_tiles), two at a time: one two's sums are stored while the next are computed.
    template <class Left, class Right>
    static void multiply_all(int64_t num_tiles, int64_t num_steps, Left left, Right right, float* out, int64_t stride) {
        for (int64_t tile = 0; tile < num_tiles; tile += 4) {
            const auto two = [&](auto sum, int64_t at) {
                if (at >= num_tiles) return;
                const auto of_tile = [&](int64_t t, int64_t step) { return right(at + t, step); };
                multiply<sum.value>(num_tiles - at, num_steps, left, of_tile, out + at * LANES, stride);
            };
            two(std::integral_constant<int, 0>{}, tile);
            two(std::integral_constant<int, 2>{}, tile + 2);
        }
    }

    // q K^T of the first `count` positions, in whole tiles of 16: scores [rows, CHUNK].
    void score(int64_t row, int64_t count, float* scores) {
        const uint32_t* of_row = (const uint32_t*)queries + row * num_steps * DEPTH / 2;
        multiply_all((count + LANES - 1) / LANES, num_steps,
                     [&](int64_t step) { return Operand{of_row + step * DEPTH / 2, num_steps * DEPTH * 2}; },
                     [&](int64_t tile, int64_t step) { return keys[tile].from(start_of(step) / 2); }, scores, CHUNK);
    }

    // Turns scores into weights, and scores that a row does not see into zeros.
    void weigh(int64_t row, int64_t rows, int64_t begin, float* scores, bf16* weights, Part part) {
        constexpr int VECTORS = CHUNK / LANES;
        const float unit = float(item.a->scale) * Softmax<bf16>::UNIT;
        const f32x16 units = broadcast(unit), unseen = broadcast(-__builtin_inff());
        f32x16 largest[TILE_ROWS];
        for (int64_t r = 0; r < rows; ++r) {
            float* s = scores + r * CHUNK;
            const int64_t first = item.first(row + r) - begin, last = item.last(row + r) - begin;
            if (first > 0 || last < CHUNK - 1)
                for (int64_t i = 0; i < CHUNK; i += LANES) store(s + i, where(lanes(first - i, last - i), load(s + i), unseen));
            largest[r] = max(max(load(s), load(s + LANES)), max(load(s + 2 * LANES), load(s + 3 * LANES)));
        }
        for (int64_t r = rows; r < TILE_ROWS; ++r) largest[r] = zero();
        const f32x16 most = max_of_each(largest) * units;
        store_first(part.most, most, int(rows));
        for (int64_t r = 0; r < rows; ++r) {
            const f32x16 top = broadcast(-part.most[r]);
            f32x16 p[VECTORS];
            for (int v = 0; v < VECTORS; ++v) p[v] = exp2_for_bf16(fma(load(scores + r * CHUNK + v * LANES), units, top));
            for (int v = 0; v < VECTORS; v += 2) store(weights + r * CHUNK + v * LANES, p[v], p[v + 1]);
        }
    }

    // Weights times values, and the sums of weights.
    void mix(int64_t rows, int64_t count, const bf16* weights, Part part) {
        alignas(64) static constexpr Ones ones;
        alignas(64) float sums[TILE_ROWS * LANES];
        const int64_t steps = (count + DEPTH - 1) / DEPTH;
        const auto left = [&](int64_t step) { return Operand{(const uint32_t*)weights + step * DEPTH / 2, CHUNK * 2}; };
        multiply<0>(1, steps, left, [&](int64_t, int64_t) { return Operand{ones.pairs, 0}; }, sums, LANES);
        multiply_all((D + LANES - 1) / LANES, steps, left,
                     [&](int64_t tile, int64_t step) { return Operand{values[step].pairs + tile * LANES, values[step].stride}; },
                     part.out, part.stride);
        for (int64_t r = 0; r < rows; ++r) part.sum[r] = sums[r * LANES];
    }
    // A row of a tile.
    struct Ones {
        uint32_t pairs[LANES];
        constexpr Ones() : pairs() {
            for (uint32_t& pair : pairs) pair = 0x3f803f80;
        }
    };

    // Where keys and values of a chunk lie; values that the sequence has not reached are zeros.
    void lay_out(int64_t begin) {
        if (laid_out == begin) return;
        laid_out = begin;
        const int64_t block_size = item.a->block_size, width = (D + LANES - 1) / LANES * LANES;
        for (int64_t at = begin; at < end && at < begin + CHUNK; at += LANES) {
            const uint32_t* pairs = (const uint32_t*)item.keys(at);
            Operand& to = keys[(at - begin) / LANES];
            to = {pairs, block_size * 4};
            if (D >= DEPTH) continue;
            uint32_t* room = key_room.of(CHUNK * LANES) + (at - begin) * LANES;
            to = {room, TILE_BYTES};
            for (int64_t row = 0; row < LANES; ++row, room += LANES, pairs += block_size)
                store(room, row < D / 2 ? load(pairs) : broadcast(int32_t(0)));
        }
        for (int64_t at = begin; at < end && at < begin + CHUNK; at += DEPTH) {
            Operand& to = values[(at - begin) / DEPTH];
            to = {(const uint32_t*)item.values(at), D * 4};
            if (block_size % DEPTH == 0 && D == width && at + DEPTH <= end) continue;
            uint32_t* room = value_room.of(CHUNK / 2 * width) + (at - begin) / 2 * width;
            to = {room, width * 4};
            const uint32_t* in_block = nullptr;
            for (int64_t i = at; i < at + DEPTH; i += 2, room += width, in_block += D) {
                if (i < end && i % LANES == 0) in_block = (const uint32_t*)item.values(i);
                copy_pairs(room, in_block, end - i);
            }
        }
    }
    // Values of two positions, of which `left` are in the sequence.
    void copy_pairs(uint32_t* to, const uint32_t* from, int64_t left) const {
        const i32x16 kept = broadcast(int32_t(left > 1 ? 0xffffffff : 0x0000ffff));
        for (int64_t d = 0; d < D; d += LANES)
            store(to + d, left > 0 ? load_first(from + d, D - d < LANES ? int(D - d) : LANES) & kept : broadcast(int32_t(0)));
    }
};

}  // namespace cf
#endif
