// Attention over a bf16 cache with matrix tiles: a strip is up to 16 rows, scores are q K^T of 16 positions to a tile, and
// weights times values are tiles of 16 dimensions.
//
// Operands lie in the cache as a product takes them, pairs side by side, 16 rows to a tile. What does not is brought into that
// order first: keys of latents, keys of less than 32 dimensions, and values where a block of 16 or 48 does not hold the 32
// positions of a tile together or dimensions are no multiple of 16.
#pragma once
#include "../cpu/tiles.h"
#include "item.h"

#if defined(CF_TILES)

namespace cf {

template <class Args>
class Tiled {
public:
    explicit Tiled(const Args* a) : item{a}, D(a->D), width(item.width()), num_steps((D + DEPTH - 1) / DEPTH) {}
    ~Tiled() { release_tiles(); }

    void take(const Item<bf16, Args>& next) {
        item = next;
        end = item.last(item.rows() - 1) + 1;
        queries = query_room.of((item.rows() + TILE_ROWS) * num_steps * DEPTH);  // tiles of rows are loaded whole
        for (int64_t row = 0; row < item.rows(); ++row) {
            const float* q = item.query(row);
            for (int64_t step = 0; step < num_steps; ++step)
                store(queries + (row * num_steps + step) * DEPTH, query(q, step, 0), query(q, step, LANES));
        }
    }

    // use(row, rows, chunk, what the chunk gives to these rows) for all that see chunks [first, last], each row's in ascending
    // order.
    template <class Use>
    void attend(int64_t first, int64_t last, Use use) {
        alignas(64) float scores[TILE_ROWS * CHUNK];
        alignas(64) bf16 weights[TILE_ROWS * CHUNK];
        shape_for(item.rows() < TILE_ROWS ? item.rows() : TILE_ROWS);
        const Part part = part_in(part_room, TILE_ROWS, width);
        for (int64_t chunk = first; chunk <= last; ++chunk) {
            lay_out(chunk * CHUNK);
            for (int64_t row = 0; row < item.rows(); row += TILE_ROWS) {
                const int64_t rows = item.rows() - row < TILE_ROWS ? item.rows() - row : TILE_ROWS;
                if (!item.sees(row, rows, chunk)) continue;
                const int64_t reached = item.last(row + rows - 1) + 1 - chunk * CHUNK;
                const int64_t count = reached < CHUNK ? reached : CHUNK;
                score(row, count, scores);
                weigh(row, rows, chunk * CHUNK, count, scores, weights, part);
                mix(count, weights, part);
                use(row, rows, chunk, part);
            }
        }
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
    const int64_t D, width, num_steps;  // dimensions of keys and of values, steps over keys
    int64_t end = 0;             // of the positions that rows of the item see
    bf16* queries = nullptr;
    Operand keys[CHUNK / LANES], values[CHUNK / DEPTH];
    int64_t shaped_for = 0;
    static inline thread_local Room<bf16> query_room;
    static inline thread_local Room<float> part_room;
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
        const auto two = [&](auto sum, int64_t at) {
            if (at >= num_tiles) return;
            const auto of_tile = [&](int64_t t, int64_t step) { return right(at + t, step); };
            multiply<sum.value>(num_tiles - at, num_steps, left, of_tile, out + at * LANES, stride);
        };
        for (int64_t tile = 0; tile < num_tiles; tile += 4) {
            two(std::integral_constant<int, 0>{}, tile);
            two(std::integral_constant<int, 2>{}, tile + 2);
        }
    }

    // q K^T of the first `count` positions, in whole tiles of 16: scores [rows, CHUNK].
    void score(int64_t row, int64_t count, float* scores) {
        const uint32_t* q = (const uint32_t*)queries + row * num_steps * DEPTH / 2;
        multiply_all((count + LANES - 1) / LANES, num_steps,
                     [&](int64_t step) { return Operand{q + step * DEPTH / 2, num_steps * DEPTH * 2}; },
                     [&](int64_t tile, int64_t step) { return keys[tile].from(start_of(step) / 2); }, scores, CHUNK);
    }

    // Turns scores of `count` positions, in whole steps, into weights: zeros for those that a row does not see.
    void weigh(int64_t row, int64_t rows, int64_t begin, int64_t count, float* scores, bf16* weights, Part part) {
        f32x16 units = broadcast(float(item.a->scale) * Softmax<bf16>::UNIT);
        const f32x16 unseen = broadcast(-__builtin_inff());
        const int64_t end_of_steps = (count + DEPTH - 1) / DEPTH * DEPTH;
        if (item.a->softcap != 0) {
            for (int64_t r = 0; r < rows; ++r) {
                float* s = scores + r * CHUNK;
                for (int64_t i = 0; i < end_of_steps; i += LANES) store(s + i, load(s + i) * units);
                cap<bf16>(item.a, s, end_of_steps);
            }
            units = broadcast(1.0f);
        }
        const bool all_seen = item.first(row + rows - 1) <= begin && item.last(row) >= begin + end_of_steps - 1;
        for (int64_t r = 0; r < rows && !all_seen; ++r) {
            const int64_t first = item.first(row + r) - begin, last = item.last(row + r) - begin;
            for (int64_t i = 0; i < end_of_steps; i += LANES) {
                float* s = scores + r * CHUNK + i;
                store(s, where(lanes(first - i, last - i), load(s), unseen));
            }
        }
        // Step by step for all rows, not row by row: what a tile has stored, or loads next, was then stored a while ago.
        f32x16 of_row[TILE_ROWS];  // the largest score, then the sum of weights
        for (f32x16& most : of_row) most = unseen;
        for (int64_t i = 0; i < end_of_steps; i += DEPTH)
            for (int64_t r = 0; r < rows; ++r)
                of_row[r] = max(of_row[r], max(load(scores + r * CHUNK + i), load(scores + r * CHUNK + i + LANES)));
        store_first(part.most, max_of_each(of_row) * units, int(rows));
        for (f32x16& sum : of_row) sum = zero();
        for (int64_t i = 0; i < end_of_steps; i += DEPTH)
            for (int64_t r = 0; r < rows; ++r) {
                const f32x16 top = broadcast(-part.most[r]);
                const f32x16 a = exp2_for_bf16(fma(load(scores + r * CHUNK + i), units, top));
                const f32x16 b = exp2_for_bf16(fma(load(scores + r * CHUNK + i + LANES), units, top));
                of_row[r] = store_and_add(weights + r * CHUNK + i, a, b, of_row[r]);
            }
        store_first(part.sum, sum_of_each(of_row), int(rows));
    }

    // Weights times values.
    void mix(int64_t count, const bf16* weights, Part part) {
        multiply_all((width + LANES - 1) / LANES, (count + DEPTH - 1) / DEPTH,
                     [&](int64_t step) { return Operand{(const uint32_t*)weights + step * DEPTH / 2, CHUNK * 2}; },
                     [&](int64_t tile, int64_t step) { return Operand{values[step].pairs + tile * LANES, values[step].stride}; },
                     part.out, part.stride);
    }

    // Where keys and values of a chunk lie; values that the sequence has not reached are zeros.
    void lay_out(int64_t begin) {
        const int64_t block_size = item.a->block_size, padded = (width + LANES - 1) / LANES * LANES;
        if constexpr (Item<bf16, Args>::LATENTS) lay_out_latents(begin);
        else find_keys(begin);
        for (int64_t at = begin; at < end && at < begin + CHUNK; at += DEPTH) {
            Operand& to = values[(at - begin) / DEPTH];
            to = {(const uint32_t*)item.values(at), D * 4};
            if (block_size % DEPTH == 0 && padded == width && at + DEPTH <= end) continue;
            uint32_t* room = value_room.of(CHUNK / 2 * padded) + (at - begin) / 2 * padded;
            to = {room, padded * 4};
            const uint32_t* in_block = nullptr;
            for (int64_t i = at; i < at + DEPTH; i += 2, room += padded, in_block += D) {
                if (i < end && i % LANES == 0) in_block = (const uint32_t*)item.values(i);
                copy_pairs(room, in_block, end - i);
            }
        }
    }
    void find_keys(int64_t begin) {
        const int64_t block_size = item.a->block_size;
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
    }
    void lay_out_latents(int64_t begin) {
        uint32_t* room = key_room.of((D < DEPTH ? DEPTH : D) / 2 * CHUNK);
        if (D < DEPTH) std::memset(room + D / 2 * CHUNK, 0, (DEPTH - D) / 2 * CHUNK * sizeof(uint32_t));
        lay_out_keys(item, begin, end < begin + CHUNK ? end : begin + CHUNK, (bf16*)room);
        for (int64_t i = 0; i < CHUNK / LANES; ++i) keys[i] = {room + i * LANES, CHUNK * 4};
    }
    // Values of two positions, of which `left` are in the sequence.
    void copy_pairs(uint32_t* to, const uint32_t* from, int64_t left) const {
        const i32x16 kept = broadcast(int32_t(left > 1 ? 0xffffffff : 0x0000ffff));
        for (int64_t d = 0; d < width; d += LANES) {
            const int n = width - d < LANES ? int(width - d) : LANES;
            store(to + d, left > 0 ? load_first(from + d, n) & kept : broadcast(int32_t(0)));
        }
    }
};

}  // namespace cf
#endif
