// x = softcap tanh(x / softcap).
#include "../cpu/exp.h"
#include "../cpu/team.h"
#include "args.h"

using namespace cf;

void softcap(const softcap_args* a, Work* work) {
    // Columns, not rows: a single token keeps the whole team busy.
    work->each((a->V + LANES - 1) / LANES, 16, [&](Range range) {
        for (int64_t t = 0; t < *a->T; ++t)
            for (int64_t v = range.begin * LANES; v < range.end * LANES && v < a->V; v += LANES) {
                float* x = a->x + t * a->x_stride + v;
                const int n = a->V - v < LANES ? int(a->V - v) : LANES;
                store_first(x, capped(load_first(x, n), float(a->softcap)), n);
            }
    });
}
