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
#include <cstddef>

#include "../cpu/team.h"
#include "args.h"
#include "item.h"
#include "registers.h"
#include "tiled.h"

using namespace cf;

namespace {

constexpr int64_t QUERIES = PAGED_ATTENTION_QUERIES;
// Items of work for each thread, from which on decoding is not split.
constexpr int64_t ENOUGH = 8;

// What computes attention over a cache of Kv.
template <class Kv, class Args>
struct EngineOf {
    using type = Registers<Kv, Args, PAGED_ATTENTION_ROWS, PAGED_ATTENTION_VECTORS>;
};
#if defined(CF_TILES)
template <class Args>
struct EngineOf<bf16, Args> {
    using type = Tiled<Args>;
};
#endif
template <class Kv, class Args>
using Engine = typename EngineOf<Kv, Args>::type;

template <class I>
void finish(const I& item, Part all) {
    const int64_t D = item.width();
    for (int64_t row = 0; row < item.rows(); ++row) {
        const f32x16 share = broadcast(1.0f / all.sum[row]);
        float* out = item.out(row);
        for (int64_t d = 0; d < D; d += LANES)
            store_first(out + d, load(all.out + row * all.stride + d) * share, D - d < LANES ? int(D - d) : LANES);
    }
}

// What stands before the first chunk: a row's sink, of weight 1 and without a value, or nothing at all.
template <class Kv, class Args>
Part before_chunks(const Item<Kv, Args>& item, Room<float>& room) {
    const Part part = part_in(room, item.rows(), item.width());
    std::memset(part.out, 0, item.rows() * part.stride * sizeof(float));
    for (int64_t row = 0; row < item.rows(); ++row) {
        part.most[row] = item.a->sinks ? item.sink(row) * Softmax<Kv>::UNIT : -__builtin_inff();
        part.sum[row] = item.a->sinks ? 1 : 0;
    }
    return part;
}

// All chunks, joined as they come.
template <class Kv, class Args>
void attend(Engine<Kv, Args>& engine, const Item<Kv, Args>& item) {
    thread_local Room<float> room;
    const Part all = before_chunks(item, room);
    engine.take(item);
    engine.attend(item.first_chunk(), item.last_chunk(), [&](int64_t row, int64_t rows, int64_t, Part part) {
        join<Kv>(all.from(row), part, rows, item.width());
    });
    finish(item, all);
}

// Of a chunk, the n-th of the item, in `partials` [chunks, rows, width + 2]: the part's rows, its largest scores, its sums.
template <class I>
Part partial(const I& item, int64_t n, float* partials) {
    const int64_t rows = item.rows(), D = item.width();
    partials += n * rows * (D + 2);
    return {partials, D, partials + rows * D, partials + rows * (D + 1)};
}
template <class I>
void leave(const I& item, int64_t row, int64_t rows, int64_t n, Part part, float* partials) {
    const Part to = partial(item, n, partials).from(row);
    for (int64_t r = 0; r < rows; ++r)
        std::memcpy(to.out + r * to.stride, part.out + r * part.stride, to.stride * sizeof(float));
    std::memcpy(to.most, part.most, rows * sizeof(float));
    std::memcpy(to.sum, part.sum, rows * sizeof(float));
}
template <class Kv, class Args>
void join_chunks(const Item<Kv, Args>& item, float* partials) {
    thread_local Room<float> room;
    const int64_t rows = item.rows(), D = item.width();
    const Part all = before_chunks(item, room);
    for (int64_t c = 0; c < item.num_chunks(); ++c) join<Kv>(all, partial(item, c, partials), rows, D);
    finish(item, all);
}

template <class Kv, class Args>
Item<Kv, Args> item_of(const Args* a, int64_t s, int64_t query, int64_t queries) {
    const int64_t start = a->cu_seqlens_q[s], count = a->cu_seqlens_q[s + 1] - start;
    const int32_t* blocks = a->block_tables + s * a->block_tables_stride;
    return {a, a->Hq / a->Hkv, 0, start + query, a->seq_lens[s] - count + query, queries, blocks};
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
void attend_to_chunks(Engine<Kv, Args>& engine, const Args* a, Range mine) {
    int64_t before = 0;  // chunks of the items so far
    for (int64_t i = 0; i < *a->S * a->Hkv && before < mine.end; ++i) {
        Item<Kv, Args> item = item_of<Kv>(a, i / a->Hkv, 0, 1);
        item.head = i % a->Hkv;
        const int64_t count = item.num_chunks();
        const int64_t begin = mine.begin > before ? mine.begin - before : 0;
        const int64_t end = mine.end < before + count ? mine.end - before : count;
        float* partials = a->partials + before * item.rows() * (item.width() + 2);
        before += count;
        if (begin >= end) continue;
        engine.take(item);
        const int64_t first = item.first_chunk();
        engine.attend(first + begin, first + end - 1, [&](int64_t row, int64_t rows, int64_t chunk, Part part) {
            leave(item, row, rows, chunk - first, part, partials);
        });
        const int32_t done = int32_t(end - begin);
        if (__atomic_add_fetch(a->arrived + i, done, __ATOMIC_ACQ_REL) == count) {
            __atomic_store_n(a->arrived + i, 0, __ATOMIC_RELAXED);
            join_chunks(item, partials);
        }
    }
}

// Items of sequence s for each kv head.
template <class Args>
int64_t blocks_of_queries(const Args* a, int64_t s) {
    return (a->cu_seqlens_q[s + 1] - a->cu_seqlens_q[s] + QUERIES - 1) / QUERIES;
}

template <class Kv, class Args>
void attend_to_items(Engine<Kv, Args>& engine, const Args* a, Range mine) {
    int64_t before = 0;  // items of the sequences so far
    for (int64_t s = 0; s < *a->S && before < mine.end; ++s) {
        const int64_t items = blocks_of_queries(a, s) * a->Hkv, queries = a->cu_seqlens_q[s + 1] - a->cu_seqlens_q[s];
        const int64_t begin = mine.begin > before ? mine.begin - before : 0;
        const int64_t end = mine.end < before + items ? mine.end - before : items;
        before += items;
        for (int64_t i = begin; i < end; ++i) {
            const int64_t query = i / a->Hkv * QUERIES;
            Item<Kv, Args> item = item_of<Kv>(a, s, query, queries - query < QUERIES ? queries - query : QUERIES);
            item.head = i % a->Hkv;
            attend<Kv, Args>(engine, item);
        }
    }
}

template <class Kv, class Args>
void run(const Args* a, Work* work) {
    Engine<Kv, Args> engine(a);
    if (int64_t chunks = chunks_to_share<Kv>(a, work->world))
        return work->each(chunks, 1, [&](Range range) { attend_to_chunks<Kv>(engine, a, range); });
    int64_t items = 0;
    for (int64_t s = 0; s < *a->S; ++s) items += blocks_of_queries(a, s) * a->Hkv;
    work->each(items, 1, [&](Range range) { attend_to_items<Kv>(engine, a, range); });
}

// Runs what has no sinks, and may have no cap, as what has both: one engine for all. The fields of what has both are the same in
// the same order, with `sinks` behind the tensors and `softcap` behind the scalars.
template <class Kv, class All, class Args>
void run_without_sinks(const Args* a, double softcap, Work* work) {
    static_assert(offsetof(All, sinks) == offsetof(Args, scale));
    All all;
    constexpr size_t rest = sizeof(All) - offsetof(All, softcap) - sizeof(all.softcap);
    std::memcpy(&all, a, offsetof(Args, scale));
    all.sinks = nullptr;
    all.scale = a->scale;
    all.window = a->window;
    all.softcap = softcap;
    std::memcpy((char*)(&all + 1) - rest, (const char*)(a + 1) - rest, rest);
    run<Kv>(&all, work);
}

// Latents have no kv heads: q heads are shared out as if so many of them had one.
constexpr int64_t HEADS = 16;

template <class Args>
struct OfLatents : Args {
    int64_t Hkv;
    static constexpr int64_t window = 0;
    static constexpr double softcap = 0;
    static constexpr const float* sinks = nullptr;
};

template <class Kv, class Args>
void run_latent(const Args* a, Work* work) {
    const OfLatents<Args> latents{*a, a->Hq % HEADS ? 1 : a->Hq / HEADS};
    run<Kv>(&latents, work);
}

}  // namespace

#define ENTRY(KV, TYPE)                                                                                                       \
    void paged_attention_##KV(const paged_attention_##KV##_args* a, Work* work) {                                             \
        run_without_sinks<TYPE, paged_attention_sinks_##KV##_args>(a, 0, work);                                               \
    }                                                                                                                         \
    void paged_attention_capped_##KV(const paged_attention_capped_##KV##_args* a, Work* work) {                               \
        run_without_sinks<TYPE, paged_attention_sinks_##KV##_args>(a, a->softcap, work);                                      \
    }                                                                                                                         \
    void paged_attention_sinks_##KV(const paged_attention_sinks_##KV##_args* a, Work* work) { run<TYPE>(a, work); }
ENTRY(fp32, float)
ENTRY(bf16, bf16)
ENTRY(fp16, f16)
ENTRY(int8, int8_t)
#undef ENTRY
void paged_attention_latent_fp32(const paged_attention_latent_fp32_args* a, Work* work) { run_latent<float>(a, work); }
void paged_attention_latent_bf16(const paged_attention_latent_bf16_args* a, Work* work) { run_latent<bf16>(a, work); }
