// Rotates q and k in place by the angles of their positions (pairs i, i + D/2), and writes k and v into their slots.
#include "../cpu/team.h"
#include "../cpu/vec.h"
#include "args.h"

using namespace cf;

namespace {

void rotate(float* x, const float* cos, const float* sin, int64_t half) {
    for (int64_t i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

void put(float* to, float x) { *to = x; }
void put(bf16* to, float x) { *to = to_bf16(x); }

template <class Kv, class Args>
void run(const Args* a, int rank, int world) {
    const int64_t D = a->D, heads = a->Hq + a->Hkv, block_size = a->block_size;
    Range range = share(*a->T * heads, rank, world);
    for (int64_t i = range.begin; i < range.end; ++i) {
        const int64_t t = i / heads, head = i % heads, kv_head = head - a->Hq;
        float* x = kv_head < 0 ? a->q + t * a->q_stride + head * D : a->k + t * a->k_stride + kv_head * D;
        const int64_t angles = int64_t(a->positions[t]) * (D / 2);
        rotate(x, a->cos + angles, a->sin + angles, D / 2);
        const int64_t slot = a->slot_mapping[t];
        if (kv_head < 0 || slot < 0) continue;
        const int64_t block = slot / block_size, offset = slot % block_size;
        Kv* keys = (Kv*)a->k_cache + (block * a->Hkv + kv_head) * D * block_size + offset;
        Kv* values = (Kv*)a->v_cache + ((block * a->Hkv + kv_head) * block_size + offset) * D;
        const float* v = a->v + t * a->v_stride + kv_head * D;
        for (int64_t d = 0; d < D; ++d) {
            put(keys + d * block_size, x[d]);
            put(values + d, v[d]);
        }
    }
}

}  // namespace

void rope_and_cache_fp32(const rope_and_cache_fp32_args* a, int rank, int world) { run<float>(a, rank, world); }
void rope_and_cache_bf16(const rope_and_cache_bf16_args* a, int rank, int world) { run<bf16>(a, rank, world); }
