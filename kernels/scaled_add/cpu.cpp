// stream = stream + factor x.
#include "../cpu/team.h"
#include "../cpu/vec.h"
#include "args.h"

using namespace cf;

void scaled_add(const scaled_add_args* a, Work* work) {
    const f32x16 factor = broadcast(float(a->factor));
    // Columns, not rows: a single token keeps the whole team busy.
    work->each((a->D + LANES - 1) / LANES, 16, [&](Range range) {
        for (int64_t t = 0; t < *a->T; ++t)
            for (int64_t d = range.begin * LANES; d < range.end * LANES && d < a->D; d += LANES) {
                float* const stream = a->stream + t * a->stream_stride + d;
                const int n = a->D - d < LANES ? int(a->D - d) : LANES;
                const f32x16 x = load_first(a->x + t * a->x_stride + d, n);
                store_first(stream, fma(factor, x, load_first(stream, n)), n);
            }
    });
}
