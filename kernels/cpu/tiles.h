// Matrix tiles (Intel AMX): eight registers of up to 16 rows of 64 bytes, and products of two of them that are added to a third.
//
// With CF_EMULATED_TILES the same functions are plain loops over arrays, so that code written for tiles is tested on
// machines without them, to the same bits, but for subnormals, which the unit takes and returns as zeros.
#pragma once
#include "vec.h"

// Clang before 17 calls the macro __AMXINT8__.
#if defined(__AMX_INT8__) || defined(__AMXINT8__) || defined(CF_EMULATED_TILES)
#define CF_TILES 1

namespace cf {

constexpr int TILE_ROWS = 16, TILE_BYTES = 64;

// The shape of every tile register, as LDTILECFG reads it. Loading it clears them all.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};

    void set(int tile, int64_t num_rows, int64_t num_bytes) {
        rows[tile] = uint8_t(num_rows);
        bytes[tile] = uint16_t(num_bytes);
    }
};

#if defined(CF_EMULATED_TILES)

struct EmulatedTiles {
    TileShapes shapes;
    uint8_t data[8][TILE_ROWS][TILE_BYTES];
};
inline EmulatedTiles& emulated() {
    thread_local EmulatedTiles tiles;
    return tiles;
}
inline void set_shapes(const TileShapes& shapes) { emulated().shapes = shapes; }
inline void release_tiles() {}
template <int T>
inline void clear_tile() {
    std::memset(emulated().data[T], 0, sizeof emulated().data[T]);
}
template <int T>
inline void load_tile(const void* from, int64_t stride) {
    auto& t = emulated();
    clear_tile<T>();
    for (int r = 0; r < t.shapes.rows[T]; ++r)
        std::memcpy(t.data[T][r], (const char*)from + r * stride, t.shapes.bytes[T]);
}
template <int T>
inline void store_tile(void* to, int64_t stride) {
    auto& t = emulated();
    for (int r = 0; r < t.shapes.rows[T]; ++r) std::memcpy((char*)to + r * stride, t.data[T][r], t.shapes.bytes[T]);
}
// The operand at `row`, `at` of a tile.
template <class E>
inline E element(int tile, int row, int at) {
    E x;
    std::memcpy(&x, emulated().data[tile][row] + at * sizeof(E), sizeof(E));
    return x;
}
template <int C, int A, class Sum, class Product>
inline void emulated_product(Product product) {
    auto& t = emulated();
    for (int m = 0; m < t.shapes.rows[C]; ++m)
        for (int n = 0; n < t.shapes.bytes[C] / 4; ++n) {
            const Sum sum = element<Sum>(C, m, n) + product(m, n, t.shapes.bytes[A] / 4);
            std::memcpy(t.data[C][m] + n * 4, &sum, 4);
        }
}
// C[m, n] += sum over k of A[m, k] B[k / 4, 4 n + k % 4]: bytes, A signed and B as `Byte` is; sums are int32.
template <int C, int A, int B, class Byte>
inline void add_product(const Byte*) {
    emulated_product<C, A, int32_t>([](int m, int n, int quads) {
        int32_t sum = 0;
        for (int k = 0; k < 4 * quads; ++k) sum += element<int8_t>(A, m, k) * element<Byte>(B, k / 4, 4 * n + k % 4);
        return sum;
    });
}
// C[m, n] += sum over even k + sum over odd k of A[m, k] B[k / 2, 2 n + k % 2]: bf16 operands, fp32 sums. Each of the two is a
// chain of fused multiply-adds from zero in ascending k (Intel, Architecture Instruction Set Extensions, TDPBF16PS).
template <int C, int A, int B>
inline void add_product_bf16() {
    emulated_product<C, A, float>([](int m, int n, int pairs) {
        float sum[2] = {};
        for (int k = 0; k < 2 * pairs; ++k)
            sum[k % 2] = __builtin_fmaf(to_float(element<bf16>(A, m, k)), to_float(element<bf16>(B, k / 2, 2 * n + k % 2)), sum[k % 2]);
        return sum[0] + sum[1];
    });
}

#else

inline void set_shapes(const TileShapes& shapes) { __asm__ volatile("ldtilecfg %0" ::"m"(shapes)); }
inline void release_tiles() { __asm__ volatile("tilerelease"); }
template <int T>
inline void clear_tile() { __asm__ volatile("tilezero %%tmm%c0" ::"i"(T)); }
template <int T>
inline void load_tile(const void* from, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T>
inline void store_tile(void* to, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory");
}
// Bytes, A signed and B as its pointer is; sums are int32.
template <int C, int A, int B>
inline void add_product(const int8_t*) { __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B)); }
template <int C, int A, int B>
inline void add_product(const uint8_t*) { __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B)); }
// bf16 in pairs; sums are fp32, as emulated above.
template <int C, int A, int B>
inline void add_product_bf16() { __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B)); }

#endif

}  // namespace cf
#endif
