// Softmax attention over a paged KV cache, for any mix of prefill and decode.
//
// An item of work is one kv head and up to QUERIES consecutive query tokens of one sequence; its rows are those tokens
// times the q heads that share the kv head, so that every K and V vector that is loaded serves all of them. Positions are
// taken in chunks, counted from the beginning of the sequence: a chunk has its own maximum, and joins those before it by
// online softmax. Where few sequences decode, the chunks of all items are shared out evenly, left in `partials`, and joined
// by whoever finishes an item, in the same order.
//
// A row's arithmetic depends on its own position alone: masked positions add exact zeros and chunks that it does not see are
// left out, so neither the rows it shares a tile with, nor the block size, nor the team can change a bit of it.
#include <type_traits>
#include <vector>

#include "../cpu/team.h"
#include "../cpu/vec.h"
#include "args.h"

using namespace cf;

namespace {

constexpr int ROWS = PAGED_ATTENTION_ROWS, VECTORS = PAGED_ATTENTION_VECTORS, QUERIES = PAGED_ATTENTION_QUERIES;
// Positions in a chunk. No tuning constant: results depend on it.
constexpr int64_t CHUNK = 64;
// Items of work for each thread, from which on decoding is not split.
constexpr int64_t ENOUGH = 8;

template <class Kv, class Args>
struct Item {
    const Args* a;
    int64_t head, token, position, queries;  // the first query token, and where it stands in its sequence
    const int32_t* blocks;

    int64_t group() const { return a->Hq / a->Hkv; }
    int64_t rows() const { return queries * group(); }
    // The first and the last position that a row sees.
    int64_t first(int64_t row) const { return a->window && last(row) >= a->window ? last(row) - a->window + 1 : 0; }
    int64_t last(int64_t row) const { return position + row / group(); }
    int64_t first_chunk() const { return first(0) / CHUNK; }
    int64_t num_chunks() const { return last(rows() - 1) / CHUNK + 1 - first_chunk(); }

    const float* query(int64_t row) const {
        return a->q + (token + row / group()) * a->q_stride + (head * group() + row % group()) * a->D;
    }
    float* out(int64_t row) const {
        return a->out + (token + row / group()) * a->out_stride + (head * group() + row % group()) * a->D;
    }
    int64_t block(int64_t at) const { return blocks[at / a->block_size] * a->Hkv + head; }
    const Kv* keys(int64_t at) const {
        return (const Kv*)a->k_cache + block(at) * a->D * a->block_size + at % a->block_size;
    }
    const Kv* values(int64_t at) const {
        return (const Kv*)a->v_cache + (block(at) * a->block_size + at % a->block_size) * a->D;
    }
    // Factors of the keys and of the values at 16 positions.
    f32x16 key_scales(int64_t at) const { return scales<0>(at); }
    f32x16 value_scales(int64_t at) const { return scales<1>(at); }

private:
    template <int OF_VALUES>
    f32x16 scales(int64_t at) const {
        if constexpr (std::is_same_v<Kv, int8_t>) {
            return load((OF_VALUES ? a->v_scales : a->k_scales) + block(at) * a->block_size + at % a->block_size);
        } else {
            return broadcast(1.0f);
        }
    }
};

// What some chunks give a row: sum of e^(score - most) V, the largest score, and the sum of e^(score - most).
struct Part {
    float* out;
    float most, sum;
};

float scalar_exp(float x) { return first_lane(exp(broadcast(x))); }

void join(Part& before, const Part& chunk, int64_t D) {
    if (chunk.sum == 0) return;
    const bool is_first = before.sum == 0;
    const float most = is_first || chunk.most > before.most ? chunk.most : before.most;
    const float old = is_first ? 0.0f : scalar_exp(before.most - most), fresh = scalar_exp(chunk.most - most);
    before.sum = before.sum * old + chunk.sum * fresh;
    before.most = most;
    for (int64_t d = 0; d < D; d += LANES) {
        const int n = D - d < LANES ? int(D - d) : LANES;
        const f32x16 kept = is_first ? zero() : load_first(before.out + d, n) * broadcast(old);
        store_first(before.out + d, fma(load_first(chunk.out + d, n), broadcast(fresh), kept), n);
    }
}

void finish(const Part& all, int64_t D) {
    const f32x16 share = broadcast(1.0f / all.sum);
    for (int64_t d = 0; d < D; d += LANES) {
        const int n = D - d < LANES ? int(D - d) : LANES;
        store_first(all.out + d, load_first(all.out + d, n) * share, n);
    }
}

// scores[R][CHUNK] of the positions from `at` on.
template <int R, int V, class I>
void score(const I& item, int64_t row, int64_t at, float* scores) {
    f32x16 acc[R][V] = {};
    const float* q[R];
    for (int r = 0; r < R; ++r) q[r] = item.query(row + r);
    decltype(item.keys(0)) keys[V];
    for (int v = 0; v < V; ++v) keys[v] = item.keys(at + v * LANES);
    for (int64_t d = 0; d < item.a->D; ++d) {
        f32x16 k[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) k[v] = load(keys[v] + d * item.a->block_size);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            f32x16 x = broadcast(q[r][d]);
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) acc[r][v] = fma(x, k[v], acc[r][v]);
        }
    }
    for (int v = 0; v < V; ++v) {
        const f32x16 scale = item.key_scales(at + v * LANES) * broadcast(float(item.a->scale));
        for (int r = 0; r < R; ++r) store(scores + r * CHUNK + v * LANES, acc[r][v] * scale);
    }
}

template <int R, int V, class I>
void score_all(const I& item, int64_t row, int64_t at, int64_t end, float* scores) {
    for (; at + V * LANES <= end; at += V * LANES, scores += V * LANES) score<R, V>(item, row, at, scores);
    if constexpr (V > 1) score_all<R, V / 2>(item, row, at, end, scores);
}

// Turns a row's scores of positions [at, end) into the weights of their stored values.
template <class I>
void weigh(const I& item, int64_t row, int64_t at, int64_t end, float* s, Part& part) {
    const int64_t count = end - at, visible = item.first(row) - at, past = item.last(row) + 1 - at;
    part.most = part.sum = 0;
    if (visible >= count || past <= 0) {
        for (int64_t i = 0; i < count; ++i) s[i] = 0;
        return;
    }
    for (int64_t i = 0; i < visible; ++i) s[i] = -__builtin_inff();
    for (int64_t i = past; i < count; ++i) s[i] = -__builtin_inff();
    f32x16 most = load(s);
    for (int64_t i = LANES; i < count; i += LANES) most = max(most, load(s + i));
    part.most = max(most);
    const f32x16 top = broadcast(part.most);
    f32x16 total = zero();
    for (int64_t i = 0; i < count; i += LANES) {
        const f32x16 p = exp(load(s + i) - top);
        store(s + i, p * item.value_scales(at + i));
        total = total + p;
    }
    part.sum = sum(total);
}

template <int R, int V, class I>
void mix(const I& item, int64_t d, int64_t begin, int64_t end, const float* weights, Part* parts) {
    f32x16 acc[R][V] = {};
    const int64_t D = item.a->D, tail = D - d < LANES ? D - d : 0;
    for (int64_t at = begin; at < end;) {
        const auto* values = item.values(at) + d;
        const int64_t in_block = item.a->block_size - at % item.a->block_size;
        const int64_t count = in_block < end - at ? in_block : end - at;
        for (int64_t i = 0; i < count; ++i, values += D) {
            f32x16 x[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) x[v] = V == 1 && tail ? load_first(values, tail) : load(values + v * LANES);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                f32x16 weight = broadcast(weights[r * CHUNK + at + i - begin]);
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) acc[r][v] = fma(weight, x[v], acc[r][v]);
            }
        }
        at += count;
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store_first(parts[r].out + d + v * LANES, acc[r][v], V == 1 && tail ? tail : LANES);
}

template <int R, int V, class I>
void mix_all(const I& item, int64_t d, int64_t begin, int64_t end, const float* weights, Part* parts) {
    for (; d + V * LANES <= item.a->D; d += V * LANES) mix<R, V>(item, d, begin, end, weights, parts);
    if constexpr (V > 1) return mix_all<R, V / 2>(item, d, begin, end, weights, parts);
    if (d < item.a->D) mix<R, 1>(item, d, begin, end, weights, parts);
}

// R rows over one chunk; each part's `out` is where its sum goes.
template <int R, class I>
void attend(const I& item, int64_t row, int64_t chunk, Part* parts) {
    float weights[R * CHUNK];
    const int64_t begin = chunk * CHUNK, behind = item.last(row + R - 1) + 1;
    if (begin >= behind) {
        for (int r = 0; r < R; ++r) parts[r].sum = 0;
        return;
    }
    const int64_t end = behind - begin < CHUNK ? behind : begin + CHUNK, rounded = (end + LANES - 1) / LANES * LANES;
    score_all<R, VECTORS>(item, row, begin, rounded, weights);
    for (int r = 0; r < R; ++r) weigh(item, row + r, begin, rounded, weights + r * CHUNK, parts[r]);
    mix_all<R, VECTORS>(item, 0, begin, end, weights, parts);
}

// All chunks, joined as they come. Rows in register tiles of R, then exactly the rest.
template <int R, class I>
void all_rows(const I& item, int64_t row, float* room) {
    const int64_t D = item.a->D;
    for (; row + R <= item.rows(); row += R) {
        Part before[R], chunk[R];
        for (int r = 0; r < R; ++r) {
            before[r] = {item.out(row + r), 0, 0};
            chunk[r].out = room + r * D;
        }
        for (int64_t c = item.first_chunk(); c < item.first_chunk() + item.num_chunks(); ++c) {
            attend<R>(item, row, c, chunk);
            for (int r = 0; r < R; ++r) join(before[r], chunk[r], D);
        }
        for (int r = 0; r < R; ++r) finish(before[r], D);
    }
    if constexpr (R > 1) all_rows<R - 1>(item, row, room);
}

// One chunk, left in `partials` [rows, D + 2].
template <int R, class I>
void one_chunk(const I& item, int64_t row, int64_t chunk, float* partials) {
    const int64_t D = item.a->D;
    for (; row + R <= item.rows(); row += R) {
        Part parts[R];
        for (int r = 0; r < R; ++r) parts[r].out = partials + (row + r) * (D + 2);
        attend<R>(item, row, chunk, parts);
        for (int r = 0; r < R; ++r) {
            parts[r].out[D] = parts[r].most;
            parts[r].out[D + 1] = parts[r].sum;
        }
    }
    if constexpr (R > 1) one_chunk<R - 1>(item, row, chunk, partials);
}

template <class I>
void join_chunks(const I& item, float* partials) {
    const int64_t D = item.a->D;
    for (int64_t row = 0; row < item.rows(); ++row) {
        Part all{item.out(row), 0, 0};
        for (int64_t c = 0; c < item.num_chunks(); ++c) {
            float* out = partials + (c * item.rows() + row) * (D + 2);
            join(all, {out, out[D], out[D + 1]}, D);
        }
        finish(all, D);
    }
}

template <class Kv, class Args>
Item<Kv, Args> item_of(const Args* a, int64_t s, int64_t query, int64_t queries) {
    const int64_t start = a->cu_seqlens_q[s], count = a->cu_seqlens_q[s + 1] - start;
    return {a, 0, start + query, a->seq_lens[s] - count + query, queries, a->block_tables + s * a->block_tables_stride};
}

// Chunks of all items if every sequence has one query token, and so few that threads would wait for each other; else 0.
template <class Kv, class Args>
int64_t chunks_to_share(const Args* a, int world) {
    const int64_t S = *a->S;
    if (world == 1 || *a->T != S || S * a->Hkv >= ENOUGH * world || S * a->Hkv > a->num_items) return 0;
    int64_t chunks = 0;
    for (int64_t s = 0; s < S; ++s) {
        if (a->cu_seqlens_q[s + 1] - a->cu_seqlens_q[s] != 1) return 0;
        chunks += item_of<Kv>(a, s, 0, 1).num_chunks() * a->Hkv;
    }
    return chunks * (a->Hq / a->Hkv) <= a->num_partials ? chunks : 0;
}

template <class Kv, class Args>
void run_shared(const Args* a, Range mine) {
    int64_t before = 0;  // chunks of the items so far
    for (int64_t i = 0; i < *a->S * a->Hkv; ++i) {
        Item<Kv, Args> item = item_of<Kv>(a, i / a->Hkv, 0, 1);
        item.head = i % a->Hkv;
        const int64_t count = item.num_chunks();
        const int64_t begin = mine.begin > before ? mine.begin - before : 0;
        const int64_t end = mine.end < before + count ? mine.end - before : count;
        float* partials = a->partials + before * item.rows() * (a->D + 2);
        before += count;
        if (begin >= end) continue;
        for (int64_t c = begin; c < end; ++c)
            one_chunk<ROWS>(item, 0, item.first_chunk() + c, partials + c * item.rows() * (a->D + 2));
        const int32_t done = int32_t(end - begin);
        if (__atomic_add_fetch(a->arrived + i, done, __ATOMIC_ACQ_REL) == count) {
            __atomic_store_n(a->arrived + i, 0, __ATOMIC_RELAXED);
            join_chunks(item, partials);
        }
    }
}

template <class Kv, class Args>
void run(const Args* a, int rank, int world) {
    if (int64_t chunks = chunks_to_share<Kv>(a, world)) return run_shared<Kv>(a, share(chunks, rank, world));
    thread_local std::vector<float> room;
    room.resize(ROWS * a->D);
    int64_t turn = 0;
    for (int64_t s = 0; s < *a->S; ++s) {
        const int64_t count = a->cu_seqlens_q[s + 1] - a->cu_seqlens_q[s];
        for (int64_t query = 0; query < count; query += QUERIES) {
            Item<Kv, Args> item = item_of<Kv>(a, s, query, count - query < QUERIES ? count - query : QUERIES);
            for (item.head = 0; item.head < a->Hkv; ++item.head)
                if (turn++ % world == rank) all_rows<ROWS>(item, 0, room.data());
        }
    }
}

}  // namespace

void paged_attention_fp32(const paged_attention_fp32_args* a, int rank, int world) { run<float>(a, rank, world); }
void paged_attention_bf16(const paged_attention_bf16_args* a, int rank, int world) { run<bf16>(a, rank, world); }
void paged_attention_int8(const paged_attention_int8_args* a, int rank, int world) { run<int8_t>(a, rank, world); }
