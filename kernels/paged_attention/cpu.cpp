// Softmax attention over a paged KV cache, for any mix of prefill and decode.
//
// An item of work is one kv head and up to QUERIES consecutive query tokens of one sequence; its rows are those tokens
// times the q heads that share the kv head, so that every K and V vector that is loaded serves all of them. Scores of
// all positions are kept (two passes, exact maximum), then the values are summed in ascending position. A row's
// arithmetic depends on its own position alone: masked positions add exact zeros, so neither the rows it shares a tile
// with nor the block size can change it.
#include <vector>

#include "../cpu/team.h"
#include "../cpu/vec.h"
#include "args.h"

using namespace cf;

namespace {

constexpr int ROWS = PAGED_ATTENTION_ROWS, VECTORS = PAGED_ATTENTION_VECTORS, QUERIES = PAGED_ATTENTION_QUERIES;

// `scores` [ROWS][end - first] is of the register tile at work; [first, end) is what any row may see, rounded out to 16.
template <class Kv, class Args>
struct Item {
    const Args* a;
    int64_t head, token, position;  // of the first query token
    const int32_t* blocks;
    int64_t group, first, end;
    float* scores;

    int64_t length() const { return end - first; }
    const float* query(int64_t row) const {
        return a->q + (token + row / group) * a->q_stride + (head * group + row % group) * a->D;
    }
    float* out(int64_t row) const {
        return a->out + (token + row / group) * a->out_stride + (head * group + row % group) * a->D;
    }
    const Kv* keys(int64_t at) const {
        int64_t block = blocks[at / a->block_size];
        return (const Kv*)a->k_cache + (block * a->Hkv + head) * a->D * a->block_size + at % a->block_size;
    }
    const Kv* values(int64_t at) const {
        int64_t block = blocks[at / a->block_size];
        return (const Kv*)a->v_cache + ((block * a->Hkv + head) * a->block_size + at % a->block_size) * a->D;
    }
};

template <int R, int V, class I>
void score(const I& item, int64_t row, int64_t at) {
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
    const f32x16 scale = broadcast(float(item.a->scale));
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v)
            store(item.scores + r * item.length() + at - item.first + v * LANES, acc[r][v] * scale);
}

template <int R, int V, class I>
void score_all(const I& item, int64_t row, int64_t at) {
    for (; at + V * LANES <= item.end; at += V * LANES) score<R, V>(item, row, at);
    if constexpr (V > 1) score_all<R, V / 2>(item, row, at);
}

template <class I>
void softmax(const I& item, int64_t row, float* s) {
    const int64_t position = item.position + row / item.group, window = item.a->window;
    const int64_t visible = (window && position >= window ? position - window + 1 : 0) - item.first;
    const int64_t past = position + 1 - item.first;
    for (int64_t i = 0; i < visible; ++i) s[i] = -__builtin_inff();
    for (int64_t i = past; i < item.length(); ++i) s[i] = -__builtin_inff();
    f32x16 most = load(s);
    for (int64_t i = LANES; i < item.length(); i += LANES) most = max(most, load(s + i));
    const f32x16 top = broadcast(max(most));
    f32x16 total = zero();
    for (int64_t i = 0; i < item.length(); i += LANES) {
        f32x16 p = exp(load(s + i) - top);
        store(s + i, p);
        total = total + p;
    }
    const f32x16 share = broadcast(1.0f / sum(total));
    for (int64_t i = 0; i < item.length(); i += LANES) store(s + i, load(s + i) * share);
}

template <int R, int V, class I>
void mix(const I& item, int64_t row, int64_t d, int64_t last) {
    f32x16 acc[R][V] = {};
    const float* p = item.scores;
    const int64_t D = item.a->D, tail = D - d < LANES ? D - d : 0;
    for (int64_t at = item.first; at <= last;) {
        const auto* values = item.values(at) + d;
        const int64_t in_block = item.a->block_size - at % item.a->block_size;
        const int64_t count = in_block < last + 1 - at ? in_block : last + 1 - at;
        for (int64_t i = 0; i < count; ++i, values += D) {
            f32x16 x[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) x[v] = V == 1 && tail ? load_first(values, tail) : load(values + v * LANES);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                f32x16 weight = broadcast(p[r * item.length() + at + i - item.first]);
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) acc[r][v] = fma(weight, x[v], acc[r][v]);
            }
        }
        at += count;
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store_first(item.out(row + r) + d + v * LANES, acc[r][v], V == 1 && tail ? tail : LANES);
}

template <int R, int V, class I>
void mix_all(const I& item, int64_t row, int64_t d, int64_t last) {
    for (; d + V * LANES <= item.a->D; d += V * LANES) mix<R, V>(item, row, d, last);
    if constexpr (V > 1) return mix_all<R, V / 2>(item, row, d, last);
    if (d < item.a->D) mix<R, 1>(item, row, d, last);
}

// Rows in register tiles of R, then exactly the rest.
template <int R, class I>
void all_rows(const I& item, int64_t row, int64_t rows) {
    for (; row + R <= rows; row += R) {
        score_all<R, VECTORS>(item, row, item.first);
        for (int r = 0; r < R; ++r) softmax(item, row + r, item.scores + r * item.length());
        mix_all<R, VECTORS>(item, row, 0, item.position + (row + R - 1) / item.group);
    }
    if constexpr (R > 1) all_rows<R - 1>(item, row, rows);
}

template <class Kv, class Args>
void run(const Args* a, int rank, int world) {
    thread_local std::vector<float> scores;
    int64_t turn = 0;
    for (int64_t s = 0; s < *a->S; ++s) {
        const int64_t start = a->cu_seqlens_q[s], count = a->cu_seqlens_q[s + 1] - start;
        for (int64_t query = 0; query < count; query += QUERIES) {
            const int64_t queries = count - query < QUERIES ? count - query : QUERIES;
            Item<Kv, Args> item;
            item.a = a;
            item.token = start + query;
            item.position = a->seq_lens[s] - count + query;
            item.blocks = a->block_tables + s * a->block_tables_stride;
            item.group = a->Hq / a->Hkv;
            item.first = a->window && item.position >= a->window ? (item.position - a->window + 1) / LANES * LANES : 0;
            item.end = (item.position + queries + LANES - 1) / LANES * LANES;
            for (item.head = 0; item.head < a->Hkv; ++item.head) {
                if (turn++ % world != rank) continue;
                if (scores.size() < size_t(ROWS * item.length())) scores.resize(ROWS * item.length());
                item.scores = scores.data();
                all_rows<ROWS>(item, 0, queries * item.group);
            }
        }
    }
}

}  // namespace

void paged_attention_fp32(const paged_attention_fp32_args* a, int rank, int world) { run<float>(a, rank, world); }
void paged_attention_bf16(const paged_attention_bf16_args* a, int rank, int world) { run<bf16>(a, rank, world); }
