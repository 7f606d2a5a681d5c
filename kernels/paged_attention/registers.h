// Attention with vectors: rows by vectors of positions for scores, rows by vectors of dimensions for values.
#pragma once
#include "item.h"

namespace cf {

template <class Kv, class Args, int ROWS, int VECTORS>
class Registers {
public:
    explicit Registers(const Args* a) : item{a}, D(a->D), width(item.width()) {}

    void take(const Item<Kv, Args>& next) {
        item = next;
        q = room.of(item.rows() * D);
        for (int64_t row = 0; row < item.rows(); ++row)
            for (int64_t d = 0; d < D; d += LANES) {
                const int n = D - d < LANES ? int(D - d) : LANES;
                const f32x16 x = load_first(item.query(row) + d, n);
                store_first(q + row * D + d, IN_PAIRS ? round_to_bf16(x) : x, n);
            }
    }

    // use(row, rows, chunk, what the chunk gives to these rows) for all that see chunks [first, last], each row's in ascending
    // order.
    template <class Use>
    void attend(int64_t first, int64_t last, Use use) {
        const Part part = part_in(part_room, ROWS, width);
        for (int64_t chunk = first; chunk <= last; ++chunk) {
            if constexpr (LATENTS) {
                laid_out = key_room.of(D * CHUNK);
                lay_out_keys(item, chunk * CHUNK, end_of(chunk, item.rows() - 1), laid_out);
            }
            for (int64_t row = 0; row < item.rows(); row += ROWS) {
                const int64_t rows = item.rows() - row < ROWS ? item.rows() - row : ROWS;
                if (!item.sees(row, rows, chunk)) continue;
                attend_to<ROWS>(row, rows, chunk, part);
                use(row, rows, chunk, part);
            }
        }
    }

private:
    static constexpr bool IN_PAIRS = Item<Kv, Args>::PAIRS, LATENTS = Item<Kv, Args>::LATENTS;
    Item<Kv, Args> item;
    const int64_t D, width;
    float* q = nullptr;
    Kv* laid_out = nullptr;  // keys of latents
    static inline thread_local Room<float> room, part_room;
    static inline thread_local Room<Kv> key_room;

    // The positions of a chunk that a row sees end before this, in whole vectors.
    int64_t end_of(int64_t chunk, int64_t row) const {
        const int64_t behind = item.last(row) + 1, end = (chunk + 1) * CHUNK;
        return behind < end ? (behind + LANES - 1) / LANES * LANES : end;
    }
    const Kv* keys(int64_t at) const {
        if constexpr (LATENTS) return laid_out + at % CHUNK * (IN_PAIRS ? 2 : 1);
        else return item.keys(at);
    }

    template <int R>
    void attend_to(int64_t row, int64_t rows, int64_t chunk, Part part) {
        if constexpr (R > 1)
            if (rows < R) return attend_to<R - 1>(row, rows, chunk, part);
        float weights[R * CHUNK];
        const int64_t begin = chunk * CHUNK, behind = item.last(row + R - 1) + 1;
        const int64_t end = behind - begin < CHUNK ? behind : begin + CHUNK, rounded = (end + LANES - 1) / LANES * LANES;
        score_all<R, VECTORS>(row, begin, rounded, weights);
        for (int r = 0; r < R; ++r) weigh(row + r, begin, rounded, weights + r * CHUNK, part.from(r));
        mix_all<R, VECTORS>(0, begin, end, weights, part);
    }

    // scores[R][CHUNK] of the positions from `at` on.
    template <int R, int V>
    void score(int64_t row, int64_t at, float* scores) {
        f32x16 acc[R][V] = {};
        const float* x = q + row * D;
        const int64_t stride = LATENTS ? CHUNK : item.a->block_size;
        const Kv* keys[V];
        for (int v = 0; v < V; ++v) keys[v] = this->keys(at + v * LANES);
        for (int64_t d = 0; d < D; d += 2) {
#pragma GCC unroll 2
            for (int second = 0; second < 2; ++second) {
                f32x16 k[V];
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) k[v] = one_of_two(keys[v] + d * stride, stride, second);
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) {
                    f32x16 of_row = broadcast(x[r * D + d + second]);
#pragma GCC unroll 8
                    for (int v = 0; v < V; ++v) acc[r][v] = fma(of_row, k[v], acc[r][v]);
                }
            }
        }
        for (int v = 0; v < V; ++v) {
            const f32x16 scale = item.key_scales(at + v * LANES) * broadcast(float(item.a->scale) * Softmax<Kv>::UNIT);
            for (int r = 0; r < R; ++r) store(scores + r * CHUNK + v * LANES, acc[r][v] * scale);
        }
    }

    template <int R, int V>
    void score_all(int64_t row, int64_t at, int64_t end, float* scores) {
        for (; at + V * LANES <= end; at += V * LANES, scores += V * LANES) score<R, V>(row, at, scores);
        if constexpr (V > 1) score_all<R, V / 2>(row, at, end, scores);
    }

    // Turns a row's scores of positions [at, end) into the weights of their stored values.
    void weigh(int64_t row, int64_t at, int64_t end, float* s, Part part) {
        const f32x16 unseen = broadcast(-__builtin_inff());
        const int64_t first = item.first(row) - at, last = item.last(row) - at;
        cap<Kv>(item.a, s, end - at);
        f32x16 most = unseen;
        for (int64_t i = 0; i < end - at; i += LANES) {
            const f32x16 seen = where(lanes(first - i, last - i), load(s + i), unseen);
            store(s + i, seen);
            most = max(most, seen);
        }
        *part.most = max(most);
        const f32x16 top = broadcast(*part.most);
        f32x16 total = zero();
        for (int64_t i = 0; i < end - at; i += LANES) {
            const f32x16 p = Softmax<Kv>::weight(load(s + i) - top);
            store(s + i, p * item.value_scales(at + i));
            total = total + p;
        }
        *part.sum = sum(total);
    }

    // Sums of values times weights [R][CHUNK], in dimensions from d on.
    template <int R, int V>
    void mix(int64_t d, int64_t begin, int64_t end, const float* weights, Part part) {
        f32x16 acc[R][V] = {};
        const int n = width - d < V * LANES ? int(width - d) : LANES;  // V is 1 where they differ
        for (int64_t at = begin; at < end;) {
            const Kv* values = item.values(at) + d * (IN_PAIRS ? 2 : 1);
            const int64_t in_block = item.a->block_size - at % item.a->block_size;
            const int64_t count = in_block < end - at ? in_block : end - at;
            for (int64_t i = 0; i < count; i += 2, values += 2 * D) {
#pragma GCC unroll 2
                for (int second = 0; second < 2; ++second) {
                    if (second && i + 1 == count) break;
                    f32x16 x[V];
#pragma GCC unroll 8
                    for (int v = 0; v < V; ++v)
                        x[v] = V == 1 && n < LANES ? one_of_two_first(values, D, second, n)
                                                   : one_of_two(values + v * LANES * (IN_PAIRS ? 2 : 1), D, second);
#pragma GCC unroll 16
                    for (int r = 0; r < R; ++r) {
                        f32x16 weight = broadcast(weights[r * CHUNK + at + i + second - begin]);
#pragma GCC unroll 8
                        for (int v = 0; v < V; ++v) acc[r][v] = fma(weight, x[v], acc[r][v]);
                    }
                }
            }
            at += count;
        }
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v)
                store_first(part.out + r * part.stride + d + v * LANES, acc[r][v], V == 1 ? n : LANES);
    }

    template <int R, int V>
    void mix_all(int64_t d, int64_t begin, int64_t end, const float* weights, Part part) {
        for (; d + V * LANES <= width; d += V * LANES) mix<R, V>(d, begin, end, weights, part);
        if constexpr (V > 1) return mix_all<R, V / 2>(d, begin, end, weights, part);
        if (d < width) mix<R, 1>(d, begin, end, weights, part);
    }

    // Sixteen elements, or those that lie beside them: in pairs, or `stride` further on.
    static f32x16 one_of_two(const Kv* x, int64_t stride, bool second) { return one_of_two_first(x, stride, second, LANES); }
    static f32x16 one_of_two_first(const Kv* x, int64_t stride, bool second, int n) {
        if constexpr (IN_PAIRS) {
            return of_pairs(load_first((const uint32_t*)x, n), second);
        } else {
            return load_first(x + (second ? stride : 0), n);
        }
    }
};

}  // namespace cf
