// out[r] = x[rows[r]], of floats or of quantized activations.
#include <cstring>

#include "../cpu/team.h"
#include "args.h"

using namespace cf;

namespace {

// EACH rows of codes are a token's.
template <int EACH, class Args>
void gather_quantized(const Args* a, Work* work) {
    work->each(*a->R, 1, [&](Range range) {
        for (int64_t r = range.begin; r < range.end; ++r) {
            const int64_t row = a->rows[r];
            a->scales[r] = a->x_scales[row];
            for (int i = 0; i < EACH; ++i) {
                const int64_t from = EACH * row + i, to = EACH * r + i;
                std::memcpy(a->codes + to * a->codes_stride, a->x_codes + from * a->x_codes_stride, a->H);
                std::memcpy(a->sums + to * a->sums_stride, a->x_sums + from * a->x_sums_stride, a->H / 32 * sizeof(int32_t));
            }
        }
    });
}

}  // namespace

void gather_rows(const gather_rows_args* a, Work* work) {
    work->each(*a->R, 1, [&](Range range) {
        for (int64_t r = range.begin; r < range.end; ++r)
            std::memcpy(a->out + r * a->out_stride, a->x + a->rows[r] * a->x_stride, a->H * sizeof(float));
    });
}
void gather_rows_a8(const gather_rows_a8_args* a, Work* work) { gather_quantized<1>(a, work); }
void gather_rows_a16(const gather_rows_a16_args* a, Work* work) { gather_quantized<2>(a, work); }
