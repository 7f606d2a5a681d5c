// Rotates q and k in place by the angles of their positions (pairs i, i + D/2), and writes k and v into their slots; of latents,
// writes rotated q beside absorbed q, and the latent into its slot.
#include <type_traits>

#include "../cpu/int8.h"
#include "../cpu/team.h"
#include "args.h"

using namespace cf;

namespace {

void rotate(float* x, const float* cos, const float* sin, int64_t half) {
    for (int64_t i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = fma(a, cos[i], -(b * sin[i]));
        x[i + half] = fma(b, cos[i], a * sin[i]);
    }
}

// How a row of D values is stored: plainly, rounded where that is to fp16, or as int8 codes of a scale.
struct Plain {
    void put(float* to, float x) const { *to = x; }
    void put(f16* to, float x) const { *to = to_f16(x); }
};
struct Scaled {
    float inverse;
    void put(int8_t* to, float x) const { *to = int8_t(__builtin_rintf(x * inverse)); }
};

template <class Kv, class Row>
auto storing(Row x, int64_t D, float* scale) {
    if constexpr (std::is_same_v<Kv, int8_t>) {
        float largest = 0;
        for (int64_t d = 0; d < D; ++d) largest = __builtin_fabsf(x(d)) > largest ? __builtin_fabsf(x(d)) : largest;
        const Int8Scale chosen(largest);
        *scale = chosen.scale;
        return Scaled{chosen.inverse};
    } else {
        return Plain{};
    }
}

uint32_t pair(bf16 first, bf16 second) { return first.bits | uint32_t(second.bits) << 16; }

template <class Kv, class Args>
void run(const Args* a, Range range) {
    const int64_t D = a->D, heads = a->Hq + a->Hkv, block_size = a->block_size;
    for (int64_t i = range.begin; i < range.end; ++i) {
        const int64_t t = i / heads, head = i % heads, kv_head = head - a->Hq;
        float* x = kv_head < 0 ? a->q + t * a->q_stride + head * D : a->k + t * a->k_stride + kv_head * D;
        const int64_t angles = int64_t(a->positions[t]) * (D / 2);
        rotate(x, a->cos + angles, a->sin + angles, D / 2);
        const int64_t slot = a->slot_mapping[t];
        if (kv_head < 0 || slot < 0) continue;
        const int64_t block = slot / block_size * a->Hkv + kv_head, offset = slot % block_size;
        const float* v = a->v + t * a->v_stride + kv_head * D;
        if constexpr (std::is_same_v<Kv, bf16>) {
            uint32_t* keys = (uint32_t*)a->k_cache + block * (D / 2) * block_size + offset;
            bf16* values = (bf16*)a->v_cache + (block * block_size + offset / 2 * 2) * D + offset % 2;
            for (int64_t d = 0; d < D; d += 2) keys[d / 2 * block_size] = pair(to_bf16(x[d]), to_bf16(x[d + 1]));
            for (int64_t d = 0; d < D; ++d) values[2 * d] = to_bf16(v[d]);
        } else {
            Kv* keys = (Kv*)a->k_cache + block * D * block_size + offset;
            Kv* values = (Kv*)a->v_cache + (block * block_size + offset) * D;
            float *k_scale = nullptr, *v_scale = nullptr;
            const float* centre = nullptr;
            if constexpr (std::is_same_v<Kv, int8_t>) {
                if (a->k_centre) centre = a->k_centre + kv_head * D;
                k_scale = a->k_scales + block * block_size + offset;
                v_scale = a->v_scales + block * block_size + offset;
            }
            const auto key = [=](int64_t d) { return centre ? x[d] - centre[d] : x[d]; };
            const auto value = [=](int64_t d) { return v[d]; };
            const auto of_key = storing<Kv>(key, D, k_scale), of_value = storing<Kv>(value, D, v_scale);
            for (int64_t d = 0; d < D; ++d) {
                of_key.put(keys + d * block_size, key(d));
                of_value.put(values + d, value(d));
            }
        }
    }
}

template <class Kv, class Args>
void run(const Args* a, Work* work) {
    work->each(*a->T * (a->Hq + a->Hkv), 1, [&](Range range) { run<Kv>(a, range); });
}

// Turns pairs (2i, 2i + 1) of x: put(n, value) gets the first of all pairs, then the second.
template <class Put>
void turn(const float* x, const float* cos, const float* sin, int64_t pairs, Put put) {
    for (int64_t i = 0; i < pairs; ++i) {
        const float a = x[2 * i], b = x[2 * i + 1];
        put(i, fma(a, cos[i], -(b * sin[i])));
        put(i + pairs, fma(b, cos[i], a * sin[i]));
    }
}

// The last of the rows of a token, behind those of its q heads, is its latent.
template <class Kv, class Args>
void run_latent(const Args* a, Range range) {
    const int64_t D = a->D, rank = D - 2 * a->pairs, rows = a->Hq + 1;
    for (int64_t i = range.begin; i < range.end; ++i) {
        const int64_t t = i / rows, head = i % rows, angles = int64_t(a->positions[t]) * a->pairs;
        const float *cos = a->cos + angles, *sin = a->sin + angles;
        if (head < a->Hq) {
            float* to = a->q_latent + t * a->q_latent_stride + head * D + rank;
            const float* q = a->q + t * a->q_stride + (head + 1) * a->Dq - 2 * a->pairs;
            turn(q, cos, sin, a->pairs, [=](int64_t n, float x) { to[n] = x; });
            continue;
        }
        const int64_t slot = a->slot_mapping[t], block = slot / a->block_size * a->block_size, offset = slot % a->block_size;
        if (slot < 0) continue;
        const float* kv = a->kv + t * a->kv_stride;
        const auto put = [=](int64_t d, float x) {
            if constexpr (std::is_same_v<Kv, bf16>)
                ((bf16*)a->cache)[(block + offset / 2 * 2) * D + offset % 2 + 2 * d] = to_bf16(x);
            else
                a->cache[(block + offset) * D + d] = x;
        };
        for (int64_t d = 0; d < rank; ++d) put(d, kv[d]);
        turn(kv + rank, cos, sin, a->pairs, [=](int64_t n, float x) { put(rank + n, x); });
    }
}

template <class Kv, class Args>
void run_latent(const Args* a, Work* work) {
    work->each(*a->T * (a->Hq + 1), 1, [&](Range range) { run_latent<Kv>(a, range); });
}

}  // namespace

void rope(const rope_args* a, Work* work) {
    work->each(*a->T * a->Hq, 1, [&](Range range) {
        for (int64_t i = range.begin; i < range.end; ++i) {
            const int64_t t = i / a->Hq, angles = int64_t(a->positions[t]) * (a->D / 2);
            rotate(a->q + t * a->q_stride + i % a->Hq * a->D, a->cos + angles, a->sin + angles, a->D / 2);
        }
    });
}
void rope_and_cache_fp32(const rope_and_cache_fp32_args* a, Work* work) { run<float>(a, work); }
void rope_and_cache_bf16(const rope_and_cache_bf16_args* a, Work* work) { run<bf16>(a, work); }
void rope_and_cache_fp16(const rope_and_cache_fp16_args* a, Work* work) { run<f16>(a, work); }
void rope_and_cache_int8(const rope_and_cache_int8_args* a, Work* work) { run<int8_t>(a, work); }
void rope_and_cache_latent_fp32(const rope_and_cache_latent_fp32_args* a, Work* work) { run_latent<float>(a, work); }
void rope_and_cache_latent_bf16(const rope_and_cache_latent_bf16_args* a, Work* work) { run_latent<bf16>(a, work); }
