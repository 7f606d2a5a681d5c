// stream = stream + factor x, and stream = scale (stream + x).
#include "../cpu/team.h"
#include "../cpu/vec.h"
#include "args.h"

using namespace cf;

namespace {

// `sum` of up to 16 elements of the stream and of those of x; x is null where there is none.
template <class Args, class Sum>
void join(const Args* a, Work* work, Sum sum) {
    // Columns, not rows: a single token keeps the whole team busy.
    work->each((a->D + LANES - 1) / LANES, 16, [&](Range range) {
        for (int64_t t = 0; t < *a->T; ++t)
            for (int64_t d = range.begin * LANES; d < range.end * LANES && d < a->D; d += LANES) {
                float* const stream = a->stream + t * a->stream_stride + d;
                const int n = a->D - d < LANES ? int(a->D - d) : LANES;
                const f32x16 x = a->x ? load_first(a->x + t * a->x_stride + d, n) : zero();
                store_first(stream, sum(load_first(stream, n), x), n);
            }
    });
}

}  // namespace

void scaled_add(const scaled_add_args* a, Work* work) {
    const f32x16 factor = broadcast(float(a->factor));
    join(a, work, [=](f32x16 stream, f32x16 x) { return fma(factor, x, stream); });
}

void scaled_sum(const scaled_sum_args* a, Work* work) {
    const f32x16 scale = broadcast(a->scale[0]);
    join(a, work, [=](f32x16 stream, f32x16 x) { return scale * (stream + x); });
}
