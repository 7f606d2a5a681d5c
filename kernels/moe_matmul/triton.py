"""Grouped matmul: a tile of BLOCK_M pairs of one expert times BLOCK_N of its channels; and the sum over a token's experts."""

import triton
import triton.language as tl

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
):
    """X_ROWS rows of x belong to a token: 1, which all its experts read, or TOP_K, one for each."""
    num_m = tl.load(num_padded_ptr) // BLOCK_M
    num_n: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    if tl.program_id(0) >= num_m * num_n:
        return
    block_m, block_n = _tile(num_m, num_n, GROUP_M)
    expert = tl.load(expert_ids_ptr + block_m).to(tl.int64)
    pairs = tl.load(sorted_ids_ptr + block_m * BLOCK_M + tl.arange(0, BLOCK_M))
    exists = pairs < num_pairs
    # Rows that only pad, and channels beyond N, read what is there, and are not stored.
    read = tl.where(exists, pairs, 0)
    tokens, slots = (read // TOP_K).to(tl.int64), read % TOP_K
    x_slots = slots if X_ROWS > 1 else tl.zeros_like(slots)
    channels = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
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
    acc = tl.zeros((BLOCK_N, BLOCK_M) if SWAP else (BLOCK_M, BLOCK_N), tl.int32 if INTEGER else tl.float32)
    for start in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            x = tl.load(x_tile + start)
            weight = tl.load(weight_tile + start)
        else:
            x = tl.load(x_tile + start, mask=(start + columns < K)[None, :], other=0.0)
            weight = tl.load(weight_tile + start, mask=(start + columns < K)[None, :], other=0.0)
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
        result *= tl.load(x_scales_ptr + tokens * X_SCALES_STRIDE + x_slots)[:, None]
    if bias_ptr is not None:
        result += tl.load(bias_ptr + expert * N + channel_rows)[None, :]
    if topk_weights_ptr is not None:
        result *= tl.load(topk_weights_ptr + tokens * TOPK_WEIGHTS_STRIDE + slots)[:, None]
    out = out_ptr + (tokens * OUT_STRIDE + slots * N)[:, None] + channels[None, :]
    tl.store(out, result.to(out_ptr.dtype.element_ty), mask=exists[:, None] & (channels < N)[None, :])


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
