// out[r] = x[rows[r]].
#include <cstring>

#include "../cpu/team.h"
#include "args.h"

using namespace cf;

void gather_rows(const gather_rows_args* a, Work* work) {
    work->each(*a->R, 1, [&](Range range) {
        for (int64_t r = range.begin; r < range.end; ++r)
            std::memcpy(a->out + r * a->out_stride, a->x + a->rows[r] * a->x_stride, a->H * sizeof(float));
    });
}
