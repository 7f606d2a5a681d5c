"""Grouped matmul: a tile of BLOCK_M pairs of one expert times BLOCK_N of its channels; and the sum over a token's experts.

int8 weights under activations of 16 bits become numbers of x's dtype in registers, int4 ones and 4-bit floats by the loops of
dense matrices (kernels/quant_matmul/triton.py, kernels/scaled_matmul/triton.py): an expert's rows begin at a tile of the packed
order, so that its matrix is one by itself.
"""

import triton
import triton.language as tl

from kernels.quant_matmul.triton import sum_int4, widen_int8
from kernels.scaled_matmul.triton import row_pointers, sum_float4

#: Columns, and channels, that share a scale where scaling is by block.
SCALE_BLOCK = tl.constexpr(128)


@triton.jit
def _tile(num_m, num_n, GROUP_M: tl.constexpr):
    """Which tile the program has: GROUP_M blocks of pairs take turns at the same channels, whose weights stay in L2."""
    program = tl.program_id(0)
    first_m = program // (GROUP_M * num_n) * GROUP_M
    rows = min(num_m - first_m, GROUP_M)
    within = program % (GROUP_M * num_n)
    return first_m + within % rows, within // rows


@triton.jit
def _pairs(sorted_ids_ptr, first, num_pairs, TOP_K: tl.constexpr, X_ROWS: tl.constexpr, BLOCK_M: tl.constexpr):
    """Which pairs of a tile there are, their tokens, their experts' places, and the rows of x of these; X_ROWS belong to a
    token: 1, which all its experts read, or TOP_K, one for each.

    Pairs that only pad have the places of the first: what they read is there, and is not stored.
    """
    pairs = tl.load(sorted_ids_ptr + first + tl.arange(0, BLOCK_M))
    exists = pairs < num_pairs
    read = tl.where(exists, pairs, 0)
    tokens, slots = (read // TOP_K).to(tl.int64), read % TOP_K
    return exists, tokens, slots, slots if X_ROWS > 1 else tl.zeros_like(slots)


@triton.jit
def _store(
    result,
    bias_ptr,
    topk_weights_ptr,
    out_ptr,
    exists,
    tokens,
    slots,
    expert,
    channels,
    N: tl.constexpr,
    TOPK_WEIGHTS_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
):
    """Writes a tile's sums [pairs, channels], scaled, to where their pairs belong."""
    inside = channels < N
    if bias_ptr is not None:
        result += tl.load(bias_ptr + expert * N + channels, mask=inside, other=0.0)[None, :]
    if topk_weights_ptr is not None:
        result *= tl.load(topk_weights_ptr + tokens * TOPK_WEIGHTS_STRIDE + slots)[:, None]
    out = out_ptr + (tokens * OUT_STRIDE + slots * N)[:, None] + channels[None, :]
    tl.store(out, result.to(out_ptr.dtype.element_ty), mask=exists[:, None] & inside[None, :])


@triton.jit
def moe_matmul_kernel(
    x_ptr,
    x_scales_ptr,
    weight_ptr,
    scales_ptr,
    topk_weights_ptr,
    sorted_ids_ptr,
    expert_ids_ptr,
    num_padded_ptr,
    out_ptr,
    num_pairs,
    N: tl.constexpr,
    K: tl.constexpr,
    TOP_K: tl.constexpr,
    X_ROWS: tl.constexpr,
    X_STRIDE: tl.constexpr,
    X_SCALES_STRIDE: tl.constexpr,
    TOPK_WEIGHTS_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    SCALING: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    SWAP: tl.constexpr,
    bias_ptr=None,
    ASM: tl.constexpr = False,
):
    """`ASM`: whether int8 weights are widened by PTX, where x is not int8 itself."""
    num_m = tl.load(num_padded_ptr) // BLOCK_M
    num_n: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    if tl.program_id(0) >= num_m * num_n:
        return
    block_m, block_n = _tile(num_m, num_n, GROUP_M)
    expert = tl.load(expert_ids_ptr + block_m).to(tl.int64)
    exists, tokens, slots, x_slots = _pairs(sorted_ids_ptr, block_m * BLOCK_M, num_pairs, TOP_K, X_ROWS, BLOCK_M)
    channels = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    # Channels beyond N read what is there, and are not stored.
    channel_rows = tl.where(channels < N, channels, 0)
    columns = tl.arange(0, BLOCK_K)
    x_tile = x_ptr + (tokens * X_STRIDE + x_slots * K)[:, None] + columns[None, :]
    weight_tile = weight_ptr + expert * (N * K) + channel_rows.to(tl.int64)[:, None] * K + columns[None, :]
    x_scales = x_scales_ptr
    scales = scales_ptr
    if SCALING == "block":
        K_BLOCKS: tl.constexpr = (K + SCALE_BLOCK - 1) // SCALE_BLOCK
        N_BLOCKS: tl.constexpr = (N + SCALE_BLOCK - 1) // SCALE_BLOCK
        x_scales += tokens * X_SCALES_STRIDE + x_slots * K_BLOCKS
        scales += (expert * N_BLOCKS + block_n * BLOCK_N // SCALE_BLOCK) * K_BLOCKS

    INTEGER: tl.constexpr = x_ptr.dtype.element_ty == tl.int8
    FP8: tl.constexpr = x_ptr.dtype.element_ty == tl.float8e4nv
    WIDENED: tl.constexpr = weight_ptr.dtype.element_ty == tl.int8 and not INTEGER
    acc = tl.zeros((BLOCK_N, BLOCK_M) if SWAP else (BLOCK_M, BLOCK_N), tl.int32 if INTEGER else tl.float32)
    for start in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            x = tl.load(x_tile + start)
            weight = tl.load(weight_tile + start)
        else:
            x = tl.load(x_tile + start, mask=(start + columns < K)[None, :], other=0.0)
            weight = tl.load(weight_tile + start, mask=(start + columns < K)[None, :], other=0.0)
        if WIDENED:
            weight = widen_int8(weight, x_ptr.dtype.element_ty, ASM)
        # The operand of at least 64 rows comes first, as wgmma wants it.
        left, right = (weight, x) if SWAP else (x, weight)
        if SCALING == "block":
            k_block = start // SCALE_BLOCK
            scale = tl.load(x_scales + k_block) * tl.load(scales + k_block)
            acc += tl.dot(left, tl.trans(right)) * (scale[None, :] if SWAP else scale[:, None])
        elif FP8:
            # Hopper adds up fp8 products in 14 bits: no more than one block of K of them.
            acc = tl.dot(left, tl.trans(right), acc, max_num_imprecise_acc=BLOCK_K)
        else:
            acc = tl.dot(left, tl.trans(right), acc, out_dtype=acc.dtype)

    result = (tl.trans(acc) if SWAP else acc).to(tl.float32)
    if SCALING == "channel":
        result *= tl.load(scales_ptr + expert * N + channel_rows)[None, :]
        if not WIDENED:
            result *= tl.load(x_scales_ptr + tokens * X_SCALES_STRIDE + x_slots)[:, None]
    _store(
        result,
        bias_ptr,
        topk_weights_ptr,
        out_ptr,
        exists,
        tokens,
        slots,
        expert,
        channels,
        N,
        TOPK_WEIGHTS_STRIDE,
        OUT_STRIDE,
    )


@triton.jit
def _expert_of(expert_ids_ptr, block_m, ALIGNED: tl.constexpr, BLOCK_M: tl.constexpr):
    """Whose pairs a tile has: they fill blocks of ALIGNED, of which a tile is BLOCK_M."""
    return tl.load(expert_ids_ptr + block_m * BLOCK_M // ALIGNED).to(tl.int64)


@triton.jit
def moe_matmul_int4_kernel(
    x_ptr,
    codes_ptr,
    scales_ptr,
    zeros_ptr,
    bias_ptr,
    topk_weights_ptr,
    sorted_ids_ptr,
    expert_ids_ptr,
    num_padded_ptr,
    out_ptr,
    num_pairs,
    width,
    N: tl.constexpr,
    K: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    TOP_K: tl.constexpr,
    X_ROWS: tl.constexpr,
    X_STRIDE: tl.constexpr,
    TOPK_WEIGHTS_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    ASM: tl.constexpr,
):
    """N is a multiple of 16.

    `width` is K at run time: a loop whose length ptxas knows is unrolled to the end.
    """
    num_m = tl.load(num_padded_ptr) // BLOCK_M
    num_n: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    if tl.program_id(0) >= num_m * num_n:
        return
    block_m, block_n = _tile(num_m, num_n, GROUP_M)
    # Pairs come before what only pads.
    if tl.load(sorted_ids_ptr + block_m * BLOCK_M) >= num_pairs:
        return
    expert = _expert_of(expert_ids_ptr, block_m, ALIGNED, BLOCK_M)
    exists, tokens, slots, x_slots = _pairs(sorted_ids_ptr, block_m * BLOCK_M, num_pairs, TOP_K, X_ROWS, BLOCK_M)
    TILES: tl.constexpr = N // 16
    OF_PAIRS: tl.constexpr = TILES * (K // GROUP_SIZE) * 8
    zeros = zeros_ptr
    if zeros_ptr is not None:
        zeros += expert * OF_PAIRS
    acc = sum_int4(
        x_ptr + (tokens * X_STRIDE + x_slots * K)[:, None],
        exists[:, None],
        codes_ptr + expert * (TILES * ((K + 63) // 64 * 128)),
        scales_ptr.to(tl.pointer_type(tl.uint32)) + expert * OF_PAIRS,
        zeros,
        block_n,
        0,
        tl.cdiv(width, BLOCK_K),
        N,
        K,
        GROUP_SIZE,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        NUM_STAGES,
        ASM,
    )
    _store(
        tl.trans(acc),
        bias_ptr,
        topk_weights_ptr,
        out_ptr,
        exists,
        tokens,
        slots,
        expert,
        block_n * BLOCK_N + tl.arange(0, BLOCK_N),
        N,
        TOPK_WEIGHTS_STRIDE,
        OUT_STRIDE,
    )


@triton.jit
def moe_matmul_float4_kernel(
    x_ptr,
    codes_ptr,
    local_scales_ptr,
    row_scales_ptr,
    bias_ptr,
    topk_weights_ptr,
    sorted_ids_ptr,
    expert_ids_ptr,
    num_padded_ptr,
    out_ptr,
    num_pairs,
    width,
    N: tl.constexpr,
    K: tl.constexpr,
    TOP_K: tl.constexpr,
    X_ROWS: tl.constexpr,
    X_STRIDE: tl.constexpr,
    TOPK_WEIGHTS_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    ASM: tl.constexpr,
):
    """As `moe_matmul_int4_kernel`: NVFP4 where there are scales of rows, else MXFP4."""
    num_m = tl.load(num_padded_ptr) // BLOCK_M
    num_n: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    if tl.program_id(0) >= num_m * num_n:
        return
    block_m, block_n = _tile(num_m, num_n, GROUP_M)
    if tl.load(sorted_ids_ptr + block_m * BLOCK_M) >= num_pairs:
        return
    expert = _expert_of(expert_ids_ptr, block_m, ALIGNED, BLOCK_M)
    exists, tokens, slots, x_slots = _pairs(sorted_ids_ptr, block_m * BLOCK_M, num_pairs, TOP_K, X_ROWS, BLOCK_M)
    NV: tl.constexpr = row_scales_ptr is not None
    CODE_ROWS: tl.constexpr = N // 16
    CODE_WORDS: tl.constexpr = (K + 63) // 64 * 128
    SCALE_WORDS: tl.constexpr = (K + 63) // 64 * (16 if NV else 8)
    first = block_n * (BLOCK_N // 16)
    codes = codes_ptr + expert * (CODE_ROWS * CODE_WORDS)
    local_scales = local_scales_ptr + expert * (CODE_ROWS * SCALE_WORDS)
    acc = sum_float4(
        x_ptr + (tokens * X_STRIDE + x_slots * K)[:, None],
        row_pointers(codes, first, CODE_ROWS, CODE_WORDS, BLOCK_N // 16),
        row_pointers(local_scales, first, CODE_ROWS, SCALE_WORDS, BLOCK_N // 16),
        0,
        width,
        K,
        NV,
        BLOCK_K,
        ASM,
    )
    result = tl.trans(acc)
    channels = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    if NV:
        result *= tl.load(row_scales_ptr + expert * N + channels, mask=channels < N, other=0.0)[None, :]
    _store(
        result,
        bias_ptr,
        topk_weights_ptr,
        out_ptr,
        exists,
        tokens,
        slots,
        expert,
        channels,
        N,
        TOPK_WEIGHTS_STRIDE,
        OUT_STRIDE,
    )


@triton.jit
def moe_sum_kernel(
    x_ptr,
    shared_ptr,
    out_ptr,
    TOP_K: tl.constexpr,
    N: tl.constexpr,
    X_STRIDE: tl.constexpr,
    SHARED_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    channels = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = channels < N
    total = tl.zeros((BLOCK_N,), tl.float32)
    for slot in tl.static_range(TOP_K):
        total += tl.load(x_ptr + token * X_STRIDE + slot * N + channels, mask=inside, other=0.0).to(tl.float32)
    if shared_ptr is not None:
        total += tl.load(shared_ptr + token * SHARED_STRIDE + channels, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * OUT_STRIDE + channels, total.to(out_ptr.dtype.element_ty), mask=inside)
