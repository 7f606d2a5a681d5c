"""One program per token and BLOCK columns of its row.

Gathering words of int4 codes one column at a time reads every word eight times; they are in the cache, and the rows are few.
"""

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


@triton.jit
def embedding_int4_kernel(
    token_ids_ptr,
    codes_ptr,
    scales_ptr,
    zeros_ptr,
    out_ptr,
    NUM_TILES: tl.constexpr,
    H: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(token_ids_ptr + token).to(tl.int64)
    width = tl.where((row >= 0) & (row < NUM_TILES * 16), H, 0)
    inside = columns < width
    # The order of words and bits is that of kernels/quant_matmul/gpu_packing.py.
    tile, r, s = row // 16, row % 8, row % 16 // 8
    word = ((4 * r + columns % 8 // 2) * 2 + columns % 64 // 32) * 2 + s
    words = tl.load(codes_ptr + (tile * NUM_CHUNKS + columns // 64) * 128 + word, mask=inside, other=0)
    codes = words >> (16 * (columns % 2) + 4 * (columns % 32 // 8)).to(tl.uint32) & 15
    group = tile * NUM_GROUPS + columns // (H // NUM_GROUPS)
    scales = tl.load(scales_ptr + group * 16 + 2 * r + s, mask=inside, other=0.0)
    if zeros_ptr is None:
        centred = codes.to(tl.int32) - 8
    else:
        zeros = tl.load(zeros_ptr + group * 8 + r, mask=inside, other=0)
        centred = codes.to(tl.int32) - (zeros >> (16 * s).to(tl.uint32) & 0xFFFF).to(tl.int32)
    values = centred.to(tl.float32) * scales.to(tl.float32)
    tl.store(out_ptr + token * OUT_STRIDE + columns, values.to(out_ptr.dtype.element_ty), mask=columns < H)
