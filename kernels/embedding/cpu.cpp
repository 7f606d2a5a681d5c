// out[t] = row token_ids[t] of the packed table, dequantized.
#include "../cpu/team.h"
#include "../cpu/weights.h"
#include "args.h"

using namespace cf;

namespace {

template <class Args, class W>
void run(const Args* a, const W& w, Work* work) {
    work->each(*a->T, 1, [&](Range range) {
        for (int64_t t = range.begin; t < range.end; ++t)
            for (int64_t k = 0; k < a->H; ++k) a->out[t * a->out_stride + k] = w.at(a->token_ids[t], k);
    });
}

}  // namespace

#define ENTRY(variant, weights) \
    void embedding_##variant(const embedding_##variant##_args* a, Work* work) { \
        run(a, weights(a, a->H), work); \
    }
ENTRY(fp32, plain<float>)
ENTRY(bf16, plain<bf16>)
ENTRY(int8, int8)
ENTRY(int8_a8, int8_a8)
ENTRY(int3, int3)
ENTRY(int4_sym, int4_sym)
ENTRY(int4_asym, int4_asym)
ENTRY(int4_twolevel, int4_twolevel)
ENTRY(mxfp4, mxfp4)
