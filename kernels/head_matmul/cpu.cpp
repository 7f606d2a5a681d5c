// out[t, h, :N] = x[t, h, :K] W[h]: lanes are columns, and every sum is over k in ascending order, whatever rows it is beside.
#include "../cpu/team.h"
#include "../cpu/vec.h"
#include "args.h"

using namespace cf;

namespace {

// A tile of sums stays in registers, whose number is about the same for every width.
constexpr int ROWS = PARTS == 1 ? 6 : 2, VECTORS = PARTS == 1 ? 4 : 2;

// One head's columns from `n` on: R rows by V vectors, of which the last has `last` columns.
template <int R, int V>
void multiply(const head_matmul_args* a, int64_t t, int64_t head, int64_t n, int last) {
    f32x16 acc[R][V] = {};
    const float* x = a->x + t * a->x_stride + head * a->x_width;
    const float* w = a->weight + head * a->K * a->N + n;
    for (int64_t k = 0; k < a->K; ++k, w += a->N) {
        f32x16 of_column[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) of_column[v] = V == 1 ? load_first(w, last) : load(w + v * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            const f32x16 of_row = broadcast(x[r * a->x_stride + k]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[r][v] = fma(of_row, of_column[v], acc[r][v]);
        }
    }
    float* out = a->out + t * a->out_stride + head * a->out_width + n;
    for (int r = 0; r < R; ++r, out += a->out_stride)
        for (int v = 0; v < V; ++v) store_first(out + v * LANES, acc[r][v], V == 1 ? last : LANES);
}

template <int R>
void multiply_columns(const head_matmul_args* a, int64_t t, int64_t rows, int64_t head, int64_t n) {
    if constexpr (R > 1)
        if (rows < R) return multiply_columns<R - 1>(a, t, rows, head, n);
    const int64_t end = n + VECTORS * LANES;
    if (end <= a->N) return multiply<R, VECTORS>(a, t, head, n, LANES);
    for (; n < a->N; n += LANES) multiply<R, 1>(a, t, head, n, a->N - n < LANES ? int(a->N - n) : LANES);
}

}  // namespace

void head_matmul(const head_matmul_args* a, Work* work) {
    const int64_t blocks = (a->N + VECTORS * LANES - 1) / (VECTORS * LANES);
    work->each(a->H * blocks, 1, [&](Range range) {
        for (int64_t i = range.begin; i < range.end; ++i)
            for (int64_t t = 0; t < *a->T; t += ROWS)
                multiply_columns<ROWS>(a, t, *a->T - t < ROWS ? *a->T - t : ROWS, i / blocks, i % blocks * VECTORS * LANES);
    });
}
