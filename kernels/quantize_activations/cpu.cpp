#include "../cpu/int8.h"
#include "../cpu/team.h"
#include "args.h"

using namespace cf;

void quantize_activations(const quantize_activations_args* a, Work* work) {
    work->each(*a->T, 1, [&](Range range) {
        for (int64_t t = range.begin; t < range.end; ++t)
            quantize_row(a->x + t * a->x_stride, a->K, a->codes + t * a->codes_stride, a->scales + t, a->sums + t * a->sums_stride);
    });
}

void quantize_activations_a16(const quantize_activations_a16_args* a, Work* work) {
    work->each(*a->T, 1, [&](Range range) {
        for (int64_t t = range.begin; t < range.end; ++t) {
            int8_t* codes = a->codes + 2 * t * a->codes_stride;
            int32_t* sums = a->sums + 2 * t * a->sums_stride;
            quantize_row_a16(a->x + t * a->x_stride, a->K, codes, a->codes_stride, a->scales + t, sums, a->sums_stride);
        }
    });
}
