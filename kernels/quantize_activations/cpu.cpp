// scale = max |x| / 127 of a row, codes = round to nearest even(x / scale), sums of codes per block of 32.
#include <algorithm>
#include <cmath>

#include "../cpu/team.h"
#include "../cpu/vec.h"
#include "args.h"

using namespace cf;

void quantize_activations(const quantize_activations_args* a, int rank, int world) {
    Range range = share(*a->T, rank, world);
    for (int64_t t = range.begin; t < range.end; ++t) {
        const float* x = a->x + t * a->x_stride;
        int8_t* codes = a->codes + t * a->codes_stride;
        f32x16 most = zero();
        for (int64_t k = 0; k < a->K; k += LANES) most = max(most, abs(load(x + k)));
        const float scale = max(most) / 127.0f;
        a->scales[t] = scale;
        for (int64_t block = 0; block < a->K / 32; ++block) {
            int32_t sum = 0;
            for (int64_t k = block * 32; k < (block + 1) * 32; ++k) {
                // A scale of zero means a row of zeros. The bounds matter only where the scale is subnormal.
                float code = scale > 0 ? std::nearbyint(x[k] / scale) : 0.0f;
                codes[k] = int8_t(std::max(-127.0f, std::min(127.0f, code)));
                sum += codes[k];
            }
            a->sums[t * a->sums_stride + block] = sum;
        }
    }
}
