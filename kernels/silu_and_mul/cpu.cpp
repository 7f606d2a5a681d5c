// out = gate / (1 + e^-gate) * up, where x = [gate, up].
#include "../cpu/team.h"
#include "../cpu/vec.h"
#include "args.h"

using namespace cf;

void silu_and_mul(const silu_and_mul_args* a, int rank, int world) {
    const int64_t F = a->F;
    Range range = share((F + LANES - 1) / LANES, rank, world);
    for (int64_t t = 0; t < *a->T; ++t) {
        for (int64_t f = range.begin * LANES; f < range.end * LANES; f += LANES) {
            const int n = F - f < LANES ? int(F - f) : LANES;
            const float* x = a->x + t * a->x_stride + f;
            const f32x16 gate = load_first(x, n), up = load_first(x + F, n);
            const f32x16 silu = gate / (broadcast(1.0f) + exp(zero() - gate));
            store_first(a->out + t * a->out_stride + f, silu * up, n);
        }
    }
}
