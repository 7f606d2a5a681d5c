// out[t, n] = sum_k x[t, k] W[n, k] (+ bias[n]).
//
// A register tile is R rows of x by V row tiles of W. Each output element is one chain of fused multiply-adds in
// ascending k, whatever R, V, the batch and the team are, so none of them can change a bit of it. The loop over row
// tiles of x is inside the one over W, so that a panel of W stays in the cache while all rows pass over it.
#include <type_traits>
#include <vector>

#include "../cpu/team.h"
#include "../cpu/weights.h"
#include "args.h"
#include "register_tiles.h"
#include "tiled.h"

using namespace cf;

namespace {

constexpr int ROWS = QUANT_MATMUL_ROWS, VECTORS = QUANT_MATMUL_VECTORS, DECODE_VECTORS = QUANT_MATMUL_DECODE_VECTORS;
[[maybe_unused]] constexpr int TILED_ROWS = QUANT_MATMUL_TILED_ROWS;
[[maybe_unused]] constexpr int64_t SHARED_ROWS = QUANT_MATMUL_SHARED_ROWS;
#if defined(CF_TILES)
template <class Args, class W>
using TiledRows = TiledProduct<(QUANT_MATMUL_PANEL_KIB << 10), Args, W>;
#endif

// From so many rows on, two-level weights are unpacked first, to be multiplied as int8 ones: the same integers.
constexpr int UNPACKED_ROWS = 8;

template <class Args, class W>
void unpacked(const Args* a, const W& w, Range range) {
    thread_local std::vector<int8_t> room;
    for (int64_t tile = range.begin; tile < range.end; tile += VECTORS) {
        const Range some{tile, tile + VECTORS < range.end ? tile + VECTORS : range.end};
        unpack_quads(w, some, 128, room);
        tiles<Int8Dot, ROWS, VECTORS>(a, Int8A8{(const uint8_t*)room.data(), w.scales, a->K, tile}, some);
    }
}

#if defined(CF_TILES)
// Threads share out row tiles of W; or rows, once they are many: what a thread then writes, it reads in the next call. Weights
// that are unpacked are so once, by one thread. A piece of work is so large that passing over x, or over W, for it weighs little.
template <class Args, class W>
void run_tiled(const Args* a, const W& w, Work* work) {
    const int64_t T = num_rows<W>(a), tiles = (a->N + LANES - 1) / LANES;
    TiledRows<Args, W> rows(a, w);
    if (T < SHARED_ROWS || W::IS_CENTRED)
        return work->each(tiles, 4, [&](Range some) { rows.multiply(some, {0, T}); });
    constexpr int64_t AT_ONCE = 2 * TILE_ROWS;
    work->each((T + AT_ONCE - 1) / AT_ONCE, 4, [&](Range blocks) {
        rows.multiply({0, tiles}, {blocks.begin * AT_ONCE, blocks.end * AT_ONCE < T ? blocks.end * AT_ONCE : T});
    });
}
#endif

// Row tiles of W are shared out, by as many as are multiplied at once.
template <class Kind, int R, int V, class Args, class W>
void run_tiles(const Args* a, const W& w, Work* work) {
    work->each((a->N + LANES - 1) / LANES, V, [&](Range range) { tiles<Kind, R, V>(a, w, range); });
}

template <class Kind, class Args, class W>
void run(const Args* a, const W& w, Work* work) {
    constexpr int EACH = W::ROWS_PER_TOKEN;
    if (*a->T == 1) return run_tiles<Kind, EACH, DECODE_VECTORS >= EACH ? DECODE_VECTORS / EACH : 1>(a, w, work);
#if defined(CF_TILES)
    if constexpr (Kind::IS_INTEGER) {
        // Groups join by vectors and packed weights are unpacked, so there tiles pay later.
        const int times = w.group_size() < a->K ? 4 : W::IS_CENTRED ? 2 : 1;
        if (num_rows<W>(a) >= times * TILED_ROWS) return run_tiled(a, w, work);
    }
#endif
    if constexpr (std::is_same_v<Kind, TwoLevelDot>) {
        if (*a->T >= UNPACKED_ROWS)
            return work->each((a->N + LANES - 1) / LANES, VECTORS, [&](Range range) { unpacked(a, w, range); });
        return run_tiles<Kind, ROWS < 4 ? ROWS : 4, VECTORS>(a, w, work);
    }
    constexpr int WHOLE_TOKENS = ROWS < 4 ? 2 : ROWS < 8 ? 4 : 8;  // halves of which are whole tokens
    run_tiles<Kind, EACH == 1 ? ROWS : WHOLE_TOKENS, VECTORS>(a, w, work);
}

}  // namespace

#define ENTRY(variant, kind, weights) \
    void quant_matmul_##variant(const quant_matmul_##variant##_args* a, Work* work) { \
        run<kind>(a, weights(a, a->K), work); \
    }
ENTRY(fp32, Float, plain<float>)
ENTRY(bf16, Float, plain<bf16>)
ENTRY(int8, Float, int8)
ENTRY(int3, Float, int3)
ENTRY(int4_sym, Float, int4_sym)
ENTRY(int4_asym, Float, int4_asym)
ENTRY(int8_a8, Int8Dot, int8_a8)
ENTRY(int8_a16, Int8Dot, int8_a16)
ENTRY(int4_sym_a8, Int8Dot, int4_sym_a8)
ENTRY(int4_asym_a8, Int8Dot, int4_asym_a8)
ENTRY(int4_twolevel, Float, int4_twolevel)
ENTRY(int4_twolevel_a8, TwoLevelDot, int4_twolevel_a8)
