// out = max(x, 0)^2.
#include "../cpu/team.h"
#include "args.h"

using namespace cf;

void relu_squared(const relu_squared_args* a, Work* work) {
    work->each(*a->T, 1, [&](Range range) {
        for (int64_t t = range.begin; t < range.end; ++t)
            for (int64_t f = 0; f < a->F; ++f) {
                const float x = a->x[t * a->x_stride + f] > 0 ? a->x[t * a->x_stride + f] : 0;
                a->out[t * a->out_stride + f] = x * x;
            }
    });
}
