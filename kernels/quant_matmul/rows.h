// From sums of a row of x by a row tile of W to what the op writes.
#pragma once
#include "../cpu/weights.h"

namespace cf {

template <class Args>
void write(const Args* a, int64_t row, int64_t tile, f32x16 value) {
    int64_t column = tile * LANES, n = a->N - column;
    float* out = a->out + row * a->out_stride + column;
    if (n >= LANES) {
        store(out, a->bias ? value + load(a->bias + column) : value);
    } else {
        store_first(out, a->bias ? value + load_first(a->bias + column, n) : value, n);
    }
}

// The rows of x that *a->T tokens have.
template <class W, class Args>
int64_t num_rows(const Args* a) { return *a->T * W::ROWS_PER_TOKEN; }

// What a token's row, or its two rows of high and of low bytes, come to. Of two, the first one's unit is 256 times the second's.
template <class W>
f32x16 joined(f32x16 value, [[maybe_unused]] f32x16 of_low) {
    if constexpr (W::ROWS_PER_TOKEN == 2) value = fma(value, broadcast(256.0f), of_low);
    return value;
}

}  // namespace cf
