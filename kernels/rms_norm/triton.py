"""One program per token and group: the row stays in registers, is read once and written once."""

import triton
import triton.language as tl

from kernels.gpu.triton import store_columns


@triton.jit
def rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    scales_ptr,
    eps,
    D: tl.constexpr,
    X_STRIDE: tl.constexpr,
    RESIDUAL_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    SCALES_STRIDE: tl.constexpr,
    SCALING: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    columns = tl.arange(0, BLOCK_D)
    inside = columns < D
    within = group * D + columns
    row = tl.load(x_ptr + token * X_STRIDE + within, mask=inside, other=0.0).to(tl.float32)
    if residual_ptr is not None:
        residual = residual_ptr + token * RESIDUAL_STRIDE + within
        row += tl.load(residual, mask=inside, other=0.0).to(tl.float32)
        rounded = row.to(residual_ptr.dtype.element_ty)
        tl.store(residual, rounded, mask=inside)
        # Later layers read the rounded sum: this one normalizes the same.
        row = rounded.to(tl.float32)
    mean_square = tl.sum(row * row, axis=0) / D
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0)
    normalized = row * tl.rsqrt(mean_square + eps) * weight
    out = out_ptr + token * OUT_STRIDE + group * D
    store_columns(normalized, 0, D, out, scales_ptr, token * SCALES_STRIDE, SCALING, BLOCK_D)
