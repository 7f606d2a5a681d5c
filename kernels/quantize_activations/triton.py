"""One program per token, or per token and BLOCK columns of it where scales do not need the whole row."""

import triton
import triton.language as tl

from kernels.gpu.triton import store_columns


@triton.jit
def quantize_activations_kernel(
    x_ptr,
    out_ptr,
    scales_ptr,
    K: tl.constexpr,
    X_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    SCALES_STRIDE: tl.constexpr,
    SCALING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    columns = first + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + token * X_STRIDE + columns, mask=columns < K, other=0.0).to(tl.float32)
    store_columns(x, first, K, out_ptr + token * OUT_STRIDE, scales_ptr, token * SCALES_STRIDE, SCALING, BLOCK)
