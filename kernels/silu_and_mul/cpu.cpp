// out = gate / (1 + e^-gate) * up, where x = [gate, up].
#include <vector>

#include "../cpu/exp.h"
#include "../cpu/int8.h"
#include "../cpu/team.h"
#include "args.h"

using namespace cf;

namespace {

f32x16 silu(f32x16 gate) { return gate * reciprocal(broadcast(1.0f) + exp(zero() - gate)); }

void activate(const float* gate, const float* up, float* out, int64_t count) {
    int64_t f = 0;
#pragma GCC unroll 2
    for (; f + LANES <= count; f += LANES) store(out + f, silu(load(gate + f)) * load(up + f));
    if (const int n = int(count - f)) store_first(out + f, silu(load_first(gate + f, n)) * load_first(up + f, n), n);
}

}  // namespace

void silu_and_mul(const silu_and_mul_args* a, Work* work) {
    // Columns, not rows: a single token keeps the whole team busy.
    work->each((a->F + LANES - 1) / LANES, 16, [&](Range range) {
        const int64_t begin = range.begin * LANES, end = range.end * LANES < a->F ? range.end * LANES : a->F;
        for (int64_t t = 0; t < *a->T; ++t) {
            const float* gate = a->x + t * a->x_stride + begin;
            activate(gate, gate + a->F, a->out + t * a->out_stride + begin, end - begin);
        }
    });
}

void silu_and_mul_a8(const silu_and_mul_a8_args* a, Work* work) {
    thread_local std::vector<float> room;
    room.resize(a->F);
    float* const row = room.data();
    work->each(*a->T, 1, [&](Range range) {
        for (int64_t t = range.begin; t < range.end; ++t) {
            const float* gate = a->x + t * a->x_stride;
            activate(gate, gate + a->F, row, a->F);
            quantize_row(row, a->F, a->codes + t * a->codes_stride, a->scales + t, a->sums + t * a->sums_stride);
        }
    });
}
