// out = x / sqrt(mean(x^2) + eps) * weight, over the last axis; with a residual, x + residual takes the place of x.
#include <cmath>
#include <vector>

#include "../cpu/int8.h"
#include "../cpu/team.h"
#include "args.h"

using namespace cf;

namespace {

void norm(const float* x, float* residual, const float* weight, float* out, int64_t D, double eps) {
    f32x16 squares = zero();
    for (int64_t d = 0; d < D; d += LANES) {
        const int n = D - d < LANES ? int(D - d) : LANES;
        f32x16 v = load_first(x + d, n);
        if (residual) {
            v = v + load_first(residual + d, n);
            store_first(residual + d, v, n);
        }
        squares = fma(v, v, squares);
    }
    if (residual) x = residual;
    const f32x16 scale = broadcast(1.0f / std::sqrt(sum(squares) / float(D) + float(eps)));
    for (int64_t d = 0; d < D; d += LANES) {
        const int n = D - d < LANES ? int(D - d) : LANES;
        store_first(out + d, load_first(x + d, n) * scale * load_first(weight + d, n), n);
    }
}

}  // namespace

void rms_norm(const rms_norm_args* a, int rank, int world) {
    Range range = share(*a->T * a->G, rank, world);
    for (int64_t i = range.begin; i < range.end; ++i) {
        const int64_t t = i / a->G, at = i % a->G * a->D;
        norm(a->x + t * a->x_stride + at, a->residual ? a->residual + t * a->residual_stride + at : nullptr, a->weight,
             a->out + t * a->out_stride + at, a->D, a->eps);
    }
}

void rms_norm_a8(const rms_norm_a8_args* a, int rank, int world) {
    thread_local std::vector<float> row;
    row.resize(a->D);
    Range range = share(*a->T, rank, world);
    for (int64_t t = range.begin; t < range.end; ++t) {
        norm(a->x + t * a->x_stride, a->residual ? a->residual + t * a->residual_stride : nullptr, a->weight, row.data(), a->D,
             a->eps);
        quantize_row(row.data(), a->D, a->codes + t * a->codes_stride, a->scales + t, a->sums + t * a->sums_stride);
    }
}
