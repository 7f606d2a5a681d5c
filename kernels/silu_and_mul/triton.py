"""One program per token and BLOCK columns; where a scale needs the whole row and a block cannot hold it, one per token that
passes over the row twice, the second time out of the cache."""

import triton
import triton.language as tl

from kernels.gpu.triton import encode, scale_of, store_columns


@triton.jit
def gated(
    x_row,
    first,
    F: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
    LIMIT: tl.constexpr,
    SLOPE: tl.constexpr,
):
    """f(gate) * up of BLOCK columns from `first`, zero past the last."""
    return gated_by(x_row, x_row + F, first, F, ACTIVATION, BLOCK, LIMIT, SLOPE)


@triton.jit
def gated_by(
    gate_row,
    up_row,
    first,
    F: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
    LIMIT: tl.constexpr,
    SLOPE: tl.constexpr,
):
    columns = first + tl.arange(0, BLOCK)
    inside = columns < F
    gate = tl.load(gate_row + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_row + columns, mask=inside, other=0.0).to(tl.float32)
    if ACTIVATION == "clamped_silu":
        gate = tl.minimum(gate, LIMIT, tl.PropagateNan.ALL)
        up = 1.0 + tl.clamp(up, -LIMIT, LIMIT, tl.PropagateNan.ALL)
        slope = SLOPE * gate
    else:
        # For gelu 2 sqrt(2 / pi) (z + 0.044715 z^3): z / 2 (1 + tanh u) is z * sigmoid(2 u).
        slope = gate if ACTIVATION == "silu" else gate * (1.5957691216057308 + 0.07135481282636172 * gate * gate)
    return gate / (1.0 + tl.exp(-slope)) * up


@triton.jit
def gated_kernel(
    x_ptr,
    out_ptr,
    scales_ptr,
    F: tl.constexpr,
    X_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    SCALES_STRIDE: tl.constexpr,
    SCALING: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
    LIMIT: tl.constexpr = 0.0,
    SLOPE: tl.constexpr = 1.0,
):
    token = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    product = gated(x_ptr + token * X_STRIDE, first, F, ACTIVATION, BLOCK, LIMIT, SLOPE)
    store_columns(product, first, F, out_ptr + token * OUT_STRIDE, scales_ptr, token * SCALES_STRIDE, SCALING, BLOCK)


@triton.jit
def gate_kernel(
    gate_ptr,
    x_ptr,
    out_ptr,
    scales_ptr,
    F: tl.constexpr,
    GATE_STRIDE: tl.constexpr,
    X_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    SCALES_STRIDE: tl.constexpr,
    SCALING: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
    LIMIT: tl.constexpr = 0.0,
    SLOPE: tl.constexpr = 1.0,
):
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    gate_row, x_row = gate_ptr + row * GATE_STRIDE, x_ptr + row * X_STRIDE
    product = gated_by(gate_row, x_row, first, F, ACTIVATION, BLOCK, LIMIT, SLOPE)
    store_columns(product, first, F, out_ptr + row * OUT_STRIDE, scales_ptr, row * SCALES_STRIDE, SCALING, BLOCK)


@triton.jit
def gated_long_row_kernel(
    x_ptr,
    out_ptr,
    scales_ptr,
    F: tl.constexpr,
    X_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    SCALES_STRIDE: tl.constexpr,
    SCALING: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
    LIMIT: tl.constexpr = 0.0,
    SLOPE: tl.constexpr = 1.0,
):
    tl.static_assert(SCALING == "row")
    token = tl.program_id(0).to(tl.int64)
    x_row = x_ptr + token * X_STRIDE
    amax = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, F, BLOCK):
        amax = tl.maximum(amax, tl.abs(gated(x_row, first, F, ACTIVATION, BLOCK, LIMIT, SLOPE)))
    DTYPE: tl.constexpr = out_ptr.dtype.element_ty
    scale, inverse = scale_of(tl.max(amax, axis=0), DTYPE)
    tl.store(scales_ptr + token * SCALES_STRIDE, scale)
    for first in range(0, F, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        codes = encode(gated(x_row, first, F, ACTIVATION, BLOCK, LIMIT, SLOPE) * inverse, DTYPE)
        tl.store(out_ptr + token * OUT_STRIDE + columns, codes, mask=columns < F)
