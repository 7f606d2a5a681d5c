// out = f(gate, up), where x = [gate, up].
#include <vector>

#include "../cpu/exp.h"
#include "../cpu/int8.h"
#include "../cpu/team.h"
#include "args.h"

using namespace cf;

namespace {

struct Silu {
    template <class Args>
    explicit Silu(const Args*) {}
    f32x16 operator()(f32x16 gate, f32x16 up) const { return gate * reciprocal(broadcast(1.0f) + exp(zero() - gate)) * up; }
};

// The approximation by tanh: z / 2 (1 + tanh u) is z / (1 + e^-2u), and 2 u = 2 sqrt(2 / pi) (z + 0.044715 z^3).
struct Gelu {
    template <class Args>
    explicit Gelu(const Args*) {}
    f32x16 operator()(f32x16 gate, f32x16 up) const {
        const f32x16 slope = gate * fma(broadcast(0.0713548128f), gate * gate, broadcast(1.59576912f));
        return gate * reciprocal(broadcast(1.0f) + exp(zero() - slope)) * up;
    }
};

// A gate of at most the limit, times sigmoid of the slope times it, times one more than an up of at most that magnitude.
struct ClampedSilu {
    float limit, slope;
    template <class Args>
    explicit ClampedSilu(const Args* a) : limit(float(a->limit)), slope(float(a->slope)) {}
    f32x16 operator()(f32x16 gate, f32x16 up) const {
        const f32x16 one = broadcast(1.0f), most = broadcast(limit);
        gate = min(most, gate);  // of NaN the second one
        up = one + max(zero() - most, min(most, up));
        return gate * reciprocal(one + exp(zero() - gate * broadcast(slope))) * up;
    }
};

struct Both {
    const float *gate, *up;
};

template <class F>
void activate(F activation, const float* gate, const float* up, float* out, int64_t count) {
    int64_t f = 0;
#pragma GCC unroll 2
    for (; f + LANES <= count; f += LANES) store(out + f, activation(load(gate + f), load(up + f)));
    if (const int n = int(count - f)) store_first(out + f, activation(load_first(gate + f, n), load_first(up + f, n)), n);
}

// of(t) is what token t has of both.
template <class F, class Args, class Of>
void plain(const Args* a, Work* work, Of of) {
    // Columns, not rows: a single token keeps the whole team busy.
    work->each((a->F + LANES - 1) / LANES, 16, [&](Range range) {
        const int64_t begin = range.begin * LANES, end = range.end * LANES < a->F ? range.end * LANES : a->F;
        for (int64_t t = 0; t < *a->T; ++t) {
            const Both both = of(t);
            activate(F(a), both.gate + begin, both.up + begin, a->out + t * a->out_stride + begin, end - begin);
        }
    });
}

template <class F, class Args>
void plain(const Args* a, Work* work) {
    plain<F>(a, work, [=](int64_t t) { return Both{a->x + t * a->x_stride, a->x + t * a->x_stride + a->F}; });
}

template <class F, class Args>
void gate(const Args* a, Work* work) {
    plain<F>(a, work, [=](int64_t t) { return Both{a->gate + t * a->gate_stride, a->x + t * a->x_stride}; });
}

template <class F, class Args>
void quantized(const Args* a, Work* work) {
    thread_local std::vector<float> room;
    room.resize(a->F);
    float* const row = room.data();
    work->each(*a->T, 1, [&](Range range) {
        for (int64_t t = range.begin; t < range.end; ++t) {
            const float* gate = a->x + t * a->x_stride;
            activate(F(a), gate, gate + a->F, row, a->F);
            quantize_row(row, a->F, a->codes + t * a->codes_stride, a->scales + t, a->sums + t * a->sums_stride);
        }
    });
}

}  // namespace

void silu_and_mul(const silu_and_mul_args* a, Work* work) { plain<Silu>(a, work); }
void gelu_and_mul(const gelu_and_mul_args* a, Work* work) { plain<Gelu>(a, work); }
void clamped_silu_and_mul(const clamped_silu_and_mul_args* a, Work* work) { plain<ClampedSilu>(a, work); }
void silu_gate(const silu_gate_args* a, Work* work) { gate<Silu>(a, work); }
void gelu_gate(const gelu_gate_args* a, Work* work) { gate<Gelu>(a, work); }
void clamped_silu_gate(const clamped_silu_gate_args* a, Work* work) { gate<ClampedSilu>(a, work); }
void silu_and_mul_a8(const silu_and_mul_a8_args* a, Work* work) { quantized<Silu>(a, work); }
void gelu_and_mul_a8(const gelu_and_mul_a8_args* a, Work* work) { quantized<Gelu>(a, work); }
void clamped_silu_and_mul_a8(const clamped_silu_and_mul_a8_args* a, Work* work) { quantized<ClampedSilu>(a, work); }
