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
    explicit Tiled(const Args* a) : item{a}, D(a->D), num_steps((D + DEPTH - 1) / DEPTH) {}
    ~Tiled() { release_tiles(); }

    void take(const Item<bf16, Args>& next) {
        item = next;
        end = item.last(item.rows() - 1) + 1;
        keys_of = values_of = -1;
        queries = query_room.of(item.rows() * num_steps * DEPTH);
        for (int64_t row = 0; row < item.rows(); ++row) {
            const float* q = item.query(row);
            for (int64_t step = 0; step < num_steps; ++step)
                store(queries + (row * num_steps + step) * DEPTH, query(q, step, 0), query(q, step, LANES));
        }
    }

    // use(row, rows, chunk, what the chunk gives to these rows) for all that see chunks [first, last], each row's in ascending
    // order. While one is weighed, the next is scored and the values of the one before are mixed: products of tiles and
    // exponentials are computed by different units, and none waits for what another has just stored.
    template <class Use>
    void attend(int64_t first, int64_t last, Use use) {
        alignas(64) float scores[2][TILE_ROWS * CHUNK];
        alignas(64) bf16 weights[2][TILE_ROWS * CHUNK];
        shape_for(item.rows() < TILE_ROWS ? item.rows() : TILE_ROWS);
        const Part parts[2] = {part_in(part_room[0], TILE_ROWS, D), part_in(part_room[1], TILE_ROWS, D)};
        Unit next = seek({first, 0, 0}, last), now{}, before{};
        for (int turn = 0; next.rows || now.rows || before.rows; turn ^= 1) {
            const int other = turn ^ 1;
            const auto products = [&](int quarter) {
                if (quarter < 2) {
                    if (next.rows) score(next, quarter * 2, scores[turn]);
                } else if (before.rows) {
                    if (quarter == 2) add_up(before, weights[turn], parts[turn]);
                    mix(before, quarter == 2, weights[turn], parts[turn]);
                }
            };
            weigh(now, scores[other], weights[other], parts[other], products);
            if (before.rows) use(before.row, before.rows, before.chunk, parts[turn]);
            before = now;
            now = next;
            if (next.rows) next = seek({next.chunk, next.row + TILE_ROWS, 0}, last);
        }
    }

private:
    // What a product spans: dimensions of keys, positions of values.
    static constexpr int64_t DEPTH = 32;
    // Tiles 0 to 3 are sums; two of each operand, so that one is loaded while the other is in use.
    enum { LEFT = 4, RIGHT = 6 };
    // Rows that attend to a chunk.
    struct Unit {
        int64_t chunk, row, rows;
        int64_t begin() const { return chunk * CHUNK; }
    };
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
    int64_t keys_of = -1, values_of = -1, shaped_for = 0;
    static inline thread_local Room<bf16> query_room;
    static inline thread_local Room<float> part_room[2];
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

    // The first from `unit` on that sees some of its chunk; no rows if there is none up to chunk `last`.
    Unit seek(Unit unit, int64_t last) const {
        for (; unit.chunk <= last; ++unit.chunk, unit.row = 0)
            for (; unit.row < item.rows(); unit.row += TILE_ROWS) {
                unit.rows = item.rows() - unit.row < TILE_ROWS ? item.rows() - unit.row : TILE_ROWS;
                if (item.sees(unit.row, unit.rows, unit.chunk)) return unit;
            }
        return {0, 0, 0};
    }
    // How many positions of the chunk the last of the rows has reached.
    int64_t count(Unit unit) const {
        const int64_t reached = item.last(unit.row + unit.rows - 1) + 1 - unit.begin();
        return reached < CHUNK ? reached : CHUNK;
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
    // q K^T of two tiles of 16 positions: scores [rows, CHUNK].
    void score(Unit unit, int64_t tile, float* scores) {
        lay_out_keys(unit.begin());
        const int64_t num_tiles = (count(unit) + LANES - 1) / LANES - tile, stride = num_steps * DEPTH * 2;
        const uint32_t* q = (const uint32_t*)queries + unit.row * num_steps * DEPTH / 2;
        if (num_tiles > 0)
            multiply<0>(num_tiles, num_steps, [&](int64_t step) { return Operand{q + step * DEPTH / 2, stride}; },
                        [&](int64_t t, int64_t step) { return keys[tile + t].from(start_of(step) / 2); },
                        scores + tile * LANES, CHUNK);
    }

    // Turns scores into weights, zeros for what a row does not see; work(0), .. work(3) are done in between.
    template <class Work>
    void weigh(Unit unit, float* scores, bf16* weights, Part part, Work work) {
        constexpr int VECTORS = CHUNK / LANES;
        const f32x16 units = broadcast(float(item.a->scale) * Softmax<bf16>::UNIT), unseen = broadcast(-__builtin_inff());
        f32x16 largest[TILE_ROWS];
        for (int64_t r = 0; r < unit.rows; ++r) {
            float* s = scores + r * CHUNK;
            const int64_t first = item.first(unit.row + r) - unit.begin(), last = item.last(unit.row + r) - unit.begin();
            if (first > 0 || last < CHUNK - 1)
                for (int64_t i = 0; i < CHUNK; i += LANES) store(s + i, where(lanes(first - i, last - i), load(s + i), unseen));
            largest[r] = max(max(load(s), load(s + LANES)), max(load(s + 2 * LANES), load(s + 3 * LANES)));
        }
        for (int64_t r = unit.rows; r < TILE_ROWS; ++r) largest[r] = zero();
        alignas(64) float most[LANES];
        store(most, max_of_each(largest) * units);
        for (int64_t quarter = 0; quarter < 4; ++quarter) {
            work(quarter);
            for (int64_t r = quarter * TILE_ROWS / 4; r < (quarter + 1) * TILE_ROWS / 4 && r < unit.rows; ++r) {
                const f32x16 top = broadcast(-most[r]);
                f32x16 p[VECTORS];
                for (int v = 0; v < VECTORS; ++v) p[v] = exp2_for_bf16(fma(load(scores + r * CHUNK + v * LANES), units, top));
                for (int v = 0; v < VECTORS; v += 2) store(weights + r * CHUNK + v * LANES, p[v], p[v + 1]);
            }
        }
        store_first(part.most, load(most), int(unit.rows));
    }

    // Weights times values: of the first 32 dimensions, or of the others.
    void mix(Unit unit, bool first, const bf16* weights, Part part) {
        lay_out_values(unit.begin());
        for (int64_t d = first ? 0 : 2 * LANES; d < (first ? 2 * LANES : D); d += 2 * LANES)
            multiply<2>((D - d + LANES - 1) / LANES, num_steps_of(unit), steps_of(weights),
                        [&](int64_t t, int64_t step) { return Operand{values[step].pairs + d + t * LANES, values[step].stride}; },
                        part.out + d, part.stride);
    }
    void add_up(Unit unit, const bf16* weights, Part part) {
        alignas(64) static constexpr Ones ones;
        alignas(64) float sums[TILE_ROWS * LANES];
        multiply<2>(1, num_steps_of(unit), steps_of(weights), [&](int64_t, int64_t) { return Operand{ones.pairs, 0}; }, sums, LANES);
        for (int64_t r = 0; r < unit.rows; ++r) part.sum[r] = sums[r * LANES];
    }
    int64_t num_steps_of(Unit unit) const { return (count(unit) + DEPTH - 1) / DEPTH; }
    static auto steps_of(const bf16* weights) {
        return [=](int64_t step) { return Operand{(const uint32_t*)weights + step * DEPTH / 2, CHUNK * 2}; };
    }
    // A row of a tile.
    struct Ones {
        uint32_t pairs[LANES];
        constexpr Ones() : pairs() {
            for (uint32_t& pair : pairs) pair = 0x3f803f80;
        }
    };

    // Where keys and values of a chunk lie; values that the sequence has not reached are zeros.
    void lay_out_keys(int64_t begin) {
        if (keys_of == begin) return;
        keys_of = begin;
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
    void lay_out_values(int64_t begin) {
        if (values_of == begin) return;
        values_of = begin;
        const int64_t width = (D + LANES - 1) / LANES * LANES;
        for (int64_t at = begin; at < end && at < begin + CHUNK; at += DEPTH) {
            Operand& to = values[(at - begin) / DEPTH];
            to = {(const uint32_t*)item.values(at), D * 4};
            if (item.a->block_size % DEPTH == 0 && D == width && at + DEPTH <= end) continue;
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
