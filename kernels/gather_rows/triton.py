"""One program per row and BLOCK columns."""

import triton
import triton.language as tl


@triton.jit
def gather_rows_kernel(
    x_ptr,
    rows_ptr,
    out_ptr,
    num_tokens,
    H: tl.constexpr,
    X_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    to = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(rows_ptr + to).to(tl.int64)
    # A row that is not there has no columns.
    width = tl.where((token >= 0) & (token < num_tokens), H, 0)
    row = tl.load(x_ptr + token * X_STRIDE + columns, mask=columns < width, other=0.0)
    tl.store(out_ptr + to * OUT_STRIDE + columns, row, mask=columns < H)
