// What is attended to by whom, and how parts of a sequence are joined.
#pragma once
#include <type_traits>
#include <vector>

#include "../cpu/exp.h"

namespace cf {

// Positions in a chunk. No tuning constant: results depend on it.
constexpr int64_t CHUNK = 64;

// Whether the cache is of latents: one row of it is a position's key, and in its first columns its value. All heads share it.
template <class Args, class = void>
constexpr bool HAS_LATENTS = false;
template <class Args>
constexpr bool HAS_LATENTS<Args, std::void_t<decltype(Args::cache)>> = true;

// One kv head and some consecutive query tokens of a sequence: a row for each of them and of the q heads on that kv head.
template <class Kv, class Args>
struct Item {
    const Args* a;
    int64_t group = 1, head = 0;                // q heads on a kv head, and which kv head it is
    int64_t token = 0, position = 0, queries = 0;  // the first query token, and where it stands in its sequence
    const int32_t* blocks = nullptr;

    int64_t rows() const { return queries * group; }
    // Of values, and so of what is given out; keys have D.
    int64_t width() const {
        if constexpr (LATENTS) return a->R;
        else return a->D;
    }
    // The first and the last position that a row sees.
    int64_t first(int64_t row) const { return a->window && last(row) >= a->window ? last(row) - a->window + 1 : 0; }
    int64_t last(int64_t row) const { return position + query_of(row); }
    int64_t first_chunk() const { return first(0) / CHUNK; }
    int64_t last_chunk() const { return last(rows() - 1) / CHUNK; }
    int64_t num_chunks() const { return last_chunk() + 1 - first_chunk(); }

    // Whether some of these rows see some of the chunk.
    bool sees(int64_t row, int64_t rows, int64_t chunk) const {
        return first(row) < (chunk + 1) * CHUNK && last(row + rows - 1) >= chunk * CHUNK;
    }

    const float* query(int64_t row) const {
        const int64_t query = query_of(row);
        return a->q + (token + query) * a->q_stride + (head * group + row - query * group) * a->D;
    }
    // A row is of a q head, whose sink all its rows share.
    float sink(int64_t row) const { return a->sinks[head * group + row - query_of(row) * group]; }
    float* out(int64_t row) const {
        const int64_t query = query_of(row);
        return a->out + (token + query) * a->out_stride + (head * group + row - query * group) * width();
    }
    // Keys and values of positions from `at` on, which is even, up to the end of their block. Keys of bf16 lie
    // 2 block_size apart for every two dimensions, others block_size for each; of latents `lay_out_keys` makes such. Values lie
    // D apart, of bf16 2 D for every two.
    const Kv* keys(int64_t at) const {
        return (const Kv*)a->k_cache + block(at) * a->D * a->block_size + at % a->block_size * (PAIRS ? 2 : 1);
    }
    const Kv* values(int64_t at) const {
        if constexpr (LATENTS) return (const Kv*)a->cache + (block(at) * a->block_size + at % a->block_size) * a->D;
        else return (const Kv*)a->v_cache + (block(at) * a->block_size + at % a->block_size) * a->D;
    }
    // Factors of the scores and of the values at 16 positions.
    f32x16 key_scales(int64_t at) const { return scales<0>(at); }
    f32x16 value_scales(int64_t at) const { return scales<1>(at); }

    static constexpr bool PAIRS = std::is_same_v<Kv, bf16>, LATENTS = HAS_LATENTS<Args>;

private:
    // Divisions of 32 bits take half as long, and rows are few.
    int64_t query_of(int64_t row) const { return uint32_t(row) / uint32_t(group); }
    int64_t block(int64_t at) const {
        const int64_t of_all = blocks[at / a->block_size];
        return LATENTS ? of_all : of_all * a->Hkv + head;
    }
    template <int OF_VALUES>
    f32x16 scales(int64_t at) const {
        if constexpr (std::is_same_v<Kv, int8_t>) {
            return load((OF_VALUES ? a->v_scales : a->k_scales) + block(at) * a->block_size + at % a->block_size);
        } else {
            return broadcast(1.0f);
        }
    }
};

// How scores become weights: base^(score - most), where scores are taken times UNIT. Over a bf16 cache the base is 2, and
// weights are rounded to bf16; `factor` is the same power in full, by which parts are joined.
template <class Kv>
struct Softmax {
    static constexpr float UNIT = 1;
    static f32x16 weight(f32x16 x) { return exp(x); }
    static f32x16 factor(f32x16 x) { return exp(x); }
};
template <>
struct Softmax<bf16> {
    static constexpr float UNIT = 1.44269504f;
    static f32x16 weight(f32x16 x) { return round_to_bf16(exp2_for_bf16(x)); }
    static f32x16 factor(f32x16 x) { return exp(x * broadcast(1 / UNIT)); }
};

// Caps `count` scores, in whole vectors, which are in units of Softmax<Kv>.
template <class Kv, class Args>
void cap(const Args* a, float* scores, int64_t count) {
    if (a->softcap == 0) return;
    const float bound = float(a->softcap) * Softmax<Kv>::UNIT;
    for (int64_t i = 0; i < count; i += LANES) store(scores + i, capped(load(scores + i), bound));
}

// Working memory of a thread, kept from call to call: `count` elements in whole cache lines.
template <class T>
class Room {
public:
    T* of(int64_t count) {
        held.resize(count * sizeof(T) + 64);
        return (T*)((uintptr_t(held.data()) + 63) & ~uintptr_t(63));
    }

private:
    std::vector<char> held;
};

// Keys of latents at positions [begin, end), in whole vectors, as those of another cache of blocks of CHUNK: [D, CHUNK], bf16
// [D / 2, CHUNK, 2].
template <class Kv, class Args>
void lay_out_keys(const Item<Kv, Args>& item, int64_t begin, int64_t end, Kv* to) {
    const int64_t D = item.a->D;
    for (int64_t at = begin; at < end; at += LANES) {
        const Kv* from = item.values(at);
        if constexpr (Item<Kv, Args>::PAIRS) {
            const uint32_t* pairs = (const uint32_t*)from;  // of positions
            uint32_t* keys = (uint32_t*)to + (at - begin);
            for (int64_t d = 0; d < D; d += 2, keys += CHUNK)
                for (int64_t i = 0; i < LANES / 2; ++i) {
                    const uint32_t first = pairs[i * D + d], second = pairs[i * D + d + 1];
                    keys[2 * i] = (first & 0xffff) | second << 16;
                    keys[2 * i + 1] = first >> 16 | (second & 0xffff0000);
                }
        } else {
            Kv* keys = to + (at - begin);
            for (int64_t d = 0; d < D; ++d, keys += CHUNK)
                for (int64_t i = 0; i < LANES; ++i) keys[i] = from[i * D + d];
        }
    }
}

// What some positions give to rows: sums of weight times value, `stride` apart; largest scores; sums of weights.
struct Part {
    float* out;
    int64_t stride;
    float *most, *sum;

    Part from(int64_t row) const { return {out + row * stride, stride, most + row, sum + row}; }
};

// In `room`, rows of whole vectors.
inline Part part_in(Room<float>& room, int64_t rows, int64_t D) {
    const int64_t stride = (D + LANES - 1) / LANES * LANES;
    float* out = room.of(rows * (stride + 2));
    return {out, stride, out + rows * stride, out + rows * (stride + 1)};
}

// Rows that see none of the chunk's positions stay as they are.
template <class Kv>
void join(Part before, Part chunk, int64_t rows, int64_t D) {
    float old[LANES], fresh[LANES];
    for (int64_t at = 0; at < rows; at += LANES) {
        const int n = rows - at < LANES ? int(rows - at) : LANES;
        const f32x16 a = load_first(before.most + at, n), b = load_first(chunk.most + at, n), most = max(a, b);
        store(old, Softmax<Kv>::factor(a - most));
        store(fresh, Softmax<Kv>::factor(b - most));
        for (int r = 0; r < n; ++r) {
            if (chunk.sum[at + r] == 0) continue;
            float* out = before.out + (at + r) * before.stride;
            const float* more = chunk.out + (at + r) * chunk.stride;
            const f32x16 of_old = broadcast(old[r]), of_fresh = broadcast(fresh[r]);
            int64_t d = 0;
            for (; d + LANES <= D; d += LANES) store(out + d, fma(load(out + d), of_old, load(more + d) * of_fresh));
            if (const int m = int(D - d); m > 0)
                store_first(out + d, fma(load_first(out + d, m), of_old, load_first(more + d, m) * of_fresh), m);
            before.sum[at + r] = fma(before.sum[at + r], old[r], chunk.sum[at + r] * fresh[r]);
        }
        store_first(before.most + at, most, n);
    }
}

}  // namespace cf
