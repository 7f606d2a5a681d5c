// out[t] = sum over a token's experts, in their order, of their weight times their row of x; plus the shared experts' row.
#include "../cpu/team.h"
#include "../cpu/vec.h"
#include "args.h"

using namespace cf;

void moe_sum(const moe_sum_args* a, Work* work) {
    auto columns = [a](int64_t t, int64_t n, int count) {
        const int32_t* places = a->places + t * a->places_stride;
        const float* weights = a->topk_weights + t * a->topk_weights_stride;
        f32x16 sum = zero();
        for (int64_t slot = 0; slot < a->top_k; ++slot)
            sum = fma(broadcast(weights[slot]), load_first(a->x + places[slot] * a->x_stride + n, count), sum);
        if (a->shared) sum = sum + load_first(a->shared + t * a->shared_stride + n, count);
        store_first(a->out + t * a->out_stride + n, sum, count);
    };
    // Columns, not rows: a single token keeps the whole team busy.
    work->each((a->N + LANES - 1) / LANES, 16, [&](Range range) {
        for (int64_t t = 0; t < *a->T; ++t)
            for (int64_t i = range.begin; i < range.end; ++i) {
                const int64_t left = a->N - i * LANES;
                columns(t, i * LANES, int(left < LANES ? left : LANES));
            }
    });
}
