"""A kernel that does nothing but round: what the tests of the device functions launch."""

import triton
import triton.language as tl

from kernels.gpu.triton import encode, quantize


@triton.jit
def encode_kernel(x_ptr, codes_ptr, num, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < num, other=0.0)
    tl.store(codes_ptr + at, encode(x, codes_ptr.dtype.element_ty), mask=at < num)


@triton.jit
def quantize_kernel(x_ptr, codes_ptr, scales_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    at = rows[:, None] * COLUMNS + columns[None, :]
    codes, scales = quantize(tl.load(x_ptr + at), codes_ptr.dtype.element_ty, 1)
    tl.store(codes_ptr + at, codes)
    tl.store(scales_ptr + rows, scales)
