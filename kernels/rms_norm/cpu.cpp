// out = x / sqrt(mean(x^2) + eps) * weight, over the last axis; with a residual, x + residual takes the place of x.
#include <cmath>
#include <vector>

#include "../cpu/int8.h"
#include "../cpu/team.h"
#include "args.h"

using namespace cf;

namespace {

void norm(const float* x, float* residual, const float* weight, float* out, int64_t D, double eps) {
    const int64_t whole = D / LANES * LANES;
    const int rest = int(D - whole);
    f32x16 squares = zero();
    if (residual) {
        for (int64_t d = 0; d < whole; d += LANES) {
            const f32x16 v = load(x + d) + load(residual + d);
            store(residual + d, v);
            squares = fma(v, v, squares);
        }
        if (rest) store_first(residual + whole, load_first(x + whole, rest) + load_first(residual + whole, rest), rest);
        x = residual;
    } else {
        for (int64_t d = 0; d < whole; d += LANES) squares = fma(load(x + d), load(x + d), squares);
    }
    if (rest) squares = fma(load_first(x + whole, rest), load_first(x + whole, rest), squares);
    const f32x16 scale = broadcast(1.0f / std::sqrt(sum(squares) / float(D) + float(eps)));
    for (int64_t d = 0; d < whole; d += LANES) store(out + d, load(x + d) * scale * load(weight + d));
    if (rest) store_first(out + whole, load_first(x + whole, rest) * scale * load_first(weight + whole, rest), rest);
}

}  // namespace

void rms_norm(const rms_norm_args* a, Work* work) {
    work->each(*a->T * a->G, 1, [&](Range range) {
        for (int64_t i = range.begin; i < range.end; ++i) {
            const int64_t t = i / a->G, at = i % a->G * a->D;
            norm(a->x + t * a->x_stride + at, a->residual ? a->residual + t * a->residual_stride + at : nullptr, a->weight,
                 a->out + t * a->out_stride + at, a->D, a->eps);
        }
    });
}

void rms_norm_a8(const rms_norm_a8_args* a, Work* work) {
    thread_local std::vector<float> room;
    room.resize(a->D);
    float* const row = room.data();
    work->each(*a->T, 1, [&](Range range) {
        for (int64_t t = range.begin; t < range.end; ++t) {
            norm(a->x + t * a->x_stride, a->residual ? a->residual + t * a->residual_stride : nullptr, a->weight, row, a->D,
                 a->eps);
            quantize_row(row, a->D, a->codes + t * a->codes_stride, a->scales + t, a->sums + t * a->sums_stride);
        }
    });
}
