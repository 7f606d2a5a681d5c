"""One program per token and BLOCK columns of its row."""

import triton
import triton.language as tl


@triton.jit
def embedding_kernel(
    token_ids_ptr,
    weight_ptr,
    scales_ptr,
    out_ptr,
    V: tl.constexpr,
    H: tl.constexpr,
    WEIGHT_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(token_ids_ptr + token).to(tl.int64)
    there = (row >= 0) & (row < V)
    # A row that is not there has no columns.
    width = tl.where(there, H, 0)
    values = tl.load(weight_ptr + row * WEIGHT_STRIDE + columns, mask=columns < width, other=0)
    if scales_ptr is not None:
        values = values.to(tl.float32) * tl.load(scales_ptr + tl.where(there, row, 0))
    tl.store(out_ptr + token * OUT_STRIDE + columns, values.to(out_ptr.dtype.element_ty), mask=columns < H)
