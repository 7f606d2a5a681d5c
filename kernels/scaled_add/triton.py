"""One program per row and BLOCK columns."""

import triton
import triton.language as tl


@triton.jit
def scaled_add_kernel(
    stream_ptr,
    x_ptr,
    factor,
    D: tl.constexpr,
    STREAM_STRIDE: tl.constexpr,
    X_STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < D
    stream = stream_ptr + token * STREAM_STRIDE + columns
    x = tl.load(x_ptr + token * X_STRIDE + columns, mask=inside, other=0.0).to(tl.float32)
    joined = tl.load(stream, mask=inside, other=0.0).to(tl.float32) + factor * x
    tl.store(stream, joined.to(stream_ptr.dtype.element_ty), mask=inside)


@triton.jit
def scaled_sum_kernel(
    stream_ptr,
    x_ptr,
    scale_ptr,
    D: tl.constexpr,
    STREAM_STRIDE: tl.constexpr,
    X_STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK) + BLOCK * tl.program_id(1)
    inside = columns < D
    stream = stream_ptr + row * STREAM_STRIDE + columns
    whole = tl.load(stream, mask=inside, other=0.0).to(tl.float32)
    if x_ptr is not None:
        whole += tl.load(x_ptr + row * X_STRIDE + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(stream, (tl.load(scale_ptr) * whole).to(stream_ptr.dtype.element_ty), mask=inside)
