#include "../cpu/int8.h"
#include "../cpu/team.h"
#include "args.h"

using namespace cf;

void quantize_activations(const quantize_activations_args* a, int rank, int world) {
    Range range = share(*a->T, rank, world);
    for (int64_t t = range.begin; t < range.end; ++t)
        quantize_row(a->x + t * a->x_stride, a->K, a->codes + t * a->codes_stride, a->scales + t, a->sums + t * a->sums_stride);
}
