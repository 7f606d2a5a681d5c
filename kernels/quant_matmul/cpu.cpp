// out[t, n] = sum_k x[t, k] W[n, k] (+ bias[n]), with one W, or that of the expert whose row x[t] is.
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

// Whether matrix tiles pay for so many rows. Groups join by vectors and packed weights are unpacked, so there they pay later.
template <class Kind, class Args, class W>
bool pay_matrix_tiles([[maybe_unused]] const Args* a, [[maybe_unused]] const W& w) {
#if defined(CF_TILES)
    if constexpr (Kind::IS_INTEGER) {
        const int times = w.group_size() < a->K ? 4 : W::IS_CENTRED ? 2 : 1;
        return num_rows<W>(a) >= times * TILED_ROWS;
    }
#endif
    return false;
}

constexpr int at_once_of_one_token(int rows) { return DECODE_VECTORS >= rows ? DECODE_VECTORS / rows : 1; }

// Some row tiles of W by all rows of x.
template <class Kind, class Args, class W>
void some_tiles(const Args* a, const W& w, Range some) {
    constexpr int EACH = W::ROWS_PER_TOKEN;
    if (*a->T == 1) return tiles<Kind, EACH, at_once_of_one_token(EACH)>(a, w, some);
#if defined(CF_TILES)
    if constexpr (Kind::IS_INTEGER)
        if (pay_matrix_tiles<Kind>(a, w)) return TiledRows<Args, W>(a, w).multiply(some, {0, num_rows<W>(a)});
#endif
    if constexpr (std::is_same_v<Kind, TwoLevelDot>) {
        if (*a->T >= UNPACKED_ROWS) return unpacked(a, w, some);
        tiles<Kind, ROWS < 4 ? ROWS : 4, VECTORS>(a, w, some);
    } else {
        constexpr int WHOLE_TOKENS = ROWS < 4 ? 2 : ROWS < 8 ? 4 : 8;  // halves of which are whole tokens
        tiles<Kind, EACH == 1 ? ROWS : WHOLE_TOKENS, VECTORS>(a, w, some);
    }
}

// Threads share out row tiles of W, by as many as are multiplied at once; or rows, once they are many and matrix tiles multiply
// them: what a thread then writes, it reads in the next call. Weights that are unpacked are so once, by one thread. A piece of
// work is so large that passing over x, or over W, for it weighs little.
template <class Kind, class Args, class W>
void run(const Args* a, const W& w, Work* work) {
    const int64_t tiles = (a->N + LANES - 1) / LANES;
    const bool tiled = *a->T > 1 && pay_matrix_tiles<Kind>(a, w);
#if defined(CF_TILES)
    if constexpr (Kind::IS_INTEGER)
        if (const int64_t rows = num_rows<W>(a); tiled && rows >= SHARED_ROWS && !W::IS_CENTRED) {
            constexpr int64_t AT_ONCE = 2 * TILE_ROWS;
            TiledRows<Args, W> product(a, w);
            return work->each((rows + AT_ONCE - 1) / AT_ONCE, 4, [&](Range blocks) {
                product.multiply({0, tiles}, {blocks.begin * AT_ONCE, blocks.end * AT_ONCE < rows ? blocks.end * AT_ONCE : rows});
            });
        }
#endif
    const int grain = *a->T == 1 ? at_once_of_one_token(W::ROWS_PER_TOKEN) : tiled ? 4 : VECTORS;
    work->each(tiles, grain, [&](Range some) { some_tiles<Kind>(a, w, some); });
}

// As many row tiles are a unit of work, where experts share it.
constexpr int64_t OF_EXPERT = 8;
// Reading an expert's weights takes about as long as multiplying so many rows by them.
constexpr int64_t READ_ROWS = 4;

// Rows [offsets[e], offsets[e + 1]) of x by the matrix of expert e, for every expert that has rows. Before a thread has a range it
// may not read the offsets, so ranges are of the most work that there can be, and a range is the same share of the work that
// there is: weights are read once, and those of experts without rows never.
template <class Kind, class Product, class Args, class W>
void run_experts(const Args* a, const W& every, Work* work) {
    const int64_t tiles = a->N / LANES, units = (tiles + OF_EXPERT - 1) / OF_EXPERT;
    const int64_t most = (*a->T < a->E ? *a->T : a->E) * units;
    auto cost = [&](int64_t e) { return a->offsets[e + 1] == a->offsets[e] ? 0 : a->offsets[e + 1] - a->offsets[e] + READ_ROWS; };
    work->each(most, 1, [&](Range range) {
        int64_t total = 0, before = 0;
        for (int64_t e = 0; e < a->E; ++e) total += cost(e) * units;
        const int64_t begin = total * range.begin / most, end = total * range.end / most;
        for (int64_t e = 0; e < a->E && before < end; before += cost(e++) * units) {
            const int64_t each = cost(e);
            if (each == 0 || before + each * units <= begin) continue;
            // The first unit that begins at or after a share's begin.
            auto unit = [&](int64_t share) {
                const int64_t at = share <= before ? 0 : (share - before + each - 1) / each;
                return (at < units ? at : units) * OF_EXPERT;
            };
            const Range some{unit(begin), unit(end) < tiles ? unit(end) : tiles};
            if (some.begin >= some.end) continue;
            const int64_t first = a->offsets[e], rows = a->offsets[e + 1] - first;
            Product one{};
            one.K = a->K, one.N = a->N, one.T = &rows;
            one.out = a->out + first * a->out_stride, one.out_stride = a->out_stride;
            one.bias = a->bias ? a->bias + e * a->N : nullptr;
            if constexpr (Kind::IS_INTEGER) {
                constexpr int EACH = W::ROWS_PER_TOKEN;
                one.x_codes = a->x_codes + EACH * first * a->x_codes_stride, one.x_codes_stride = a->x_codes_stride;
                one.x_sums = a->x_sums + EACH * first * a->x_sums_stride, one.x_sums_stride = a->x_sums_stride;
                one.x_scales = a->x_scales + first;
            } else {
                one.x = a->x + first * a->x_stride, one.x_stride = a->x_stride;
            }
            some_tiles<Kind>(&one, every.from(e * tiles), some);
        }
    });
}

}  // namespace

#define ENTRY(variant, kind, weights) \
    void quant_matmul_##variant(const quant_matmul_##variant##_args* a, Work* work) { \
        run<kind>(a, weights(a, a->K), work); \
    } \
    void quant_matmul_experts_##variant(const quant_matmul_experts_##variant##_args* a, Work* work) { \
        run_experts<kind, quant_matmul_##variant##_args>(a, weights(a, a->K), work); \
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
ENTRY(mxfp4, Float, mxfp4)
ENTRY(mxfp4_a8, Int8Dot, mxfp4_a8)
