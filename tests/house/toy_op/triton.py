"""One program per token and BLOCK columns."""

import triton
import triton.language as tl


@triton.jit
def relu_squared_kernel(x_ptr, out_ptr, F: tl.constexpr, X_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + token * X_STRIDE + columns, mask=columns < F, other=0.0).to(tl.float32)
    x = tl.maximum(x, 0.0)
    tl.store(out_ptr + token * OUT_STRIDE + columns, x * x, mask=columns < F)
