"""Tiles of x times the transpose of a weight of its dtype; scales are applied to the accumulator, which is fp32 or int32.

A program computes BLOCK_M tokens x BLOCK_N channels over one of SPLIT_K ranges of K. With SWAP_AB the weight is the left
operand of the matrix instruction, so that its 64 rows are channels and 16 tokens need not be padded to 64. Rows beyond the
last token or channel are read as the last one, and their results are not stored: the loop needs no mask over rows.
"""

import triton
import triton.language as tl


@triton.jit
def _tile_of(index, tiles_m, TILES_N: tl.constexpr, GROUP_M: tl.constexpr):
    """Tiles in the order that lets GROUP_M rows of tiles share what they read of the weight."""
    if GROUP_M == 1:
        return index // TILES_N, index % TILES_N
    group = index // (GROUP_M * TILES_N)
    within = index % (GROUP_M * TILES_N)
    rows = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    return group * GROUP_M + within % rows, within // rows


@triton.jit
def _finished(acc, token, channel, x_scales_ptr, scales_ptr, bias_ptr, num_tokens, N: tl.constexpr, SCALING: tl.constexpr):
    """What the accumulator of a tile stands for, in fp32."""
    value = acc.to(tl.float32)
    if SCALING == "tensor":
        value *= tl.load(x_scales_ptr) * tl.load(scales_ptr)
    elif SCALING == "channel":
        x_scale = tl.load(x_scales_ptr + token, mask=token < num_tokens, other=0.0)
        scale = tl.load(scales_ptr + channel, mask=channel < N, other=0.0)
        value *= x_scale[:, None] * scale[None, :]
    if bias_ptr is not None:
        value += tl.load(bias_ptr + channel, mask=channel < N, other=0.0)[None, :]
    return value


@triton.jit
def _accumulate(
    x,
    weight,
    x_scales_ptr,
    scales_ptr,
    first_token,
    first_channel,
    num_tokens,
    width,
    N: tl.constexpr,
    K: tl.constexpr,
    X_STRIDE: tl.constexpr,
    X_SCALES_STRIDE: tl.constexpr,
    SCALING: tl.constexpr,
    INTEGER: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    USE_TMA: tl.constexpr,
    SWAP_AB: tl.constexpr,
):
    """The sum over this split's range of K, [BLOCK_M, BLOCK_N]."""
    # Two 4-bit codes share a byte, 32 of them a scale.
    PACK: tl.constexpr = 2 if SCALING == "mx" else 1
    WHOLE_K: tl.constexpr = K % BLOCK_K == 0
    PER_SPLIT: tl.constexpr = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLIT_K) * BLOCK_K

    token = tl.minimum(first_token + tl.arange(0, BLOCK_M), num_tokens - 1)
    channel = tl.minimum(first_channel + tl.arange(0, BLOCK_N), N - 1)
    x_column = tl.arange(0, BLOCK_K)
    weight_column = tl.arange(0, BLOCK_K // PACK)
    if not USE_TMA:
        x_tiles = x + token.to(tl.int64)[:, None] * X_STRIDE + x_column[None, :]
        weight_tiles = weight + channel.to(tl.int64)[:, None] * (K // PACK) + weight_column[None, :]
    if SCALING == "mx":
        scale_column = tl.arange(0, BLOCK_K // 32)
        scale_tiles = scales_ptr + channel.to(tl.int64)[:, None] * (K // 32) + scale_column[None, :]

    ACC: tl.constexpr = tl.int32 if INTEGER else tl.float32
    acc = tl.zeros((BLOCK_N, BLOCK_M), ACC) if SWAP_AB else tl.zeros((BLOCK_M, BLOCK_N), ACC)
    start = tl.program_id(1) * PER_SPLIT
    for k in range(start, tl.minimum(start + PER_SPLIT, width), BLOCK_K):
        if USE_TMA:
            x_tile = x.load([first_token, k])
            weight_tile = weight.load([first_channel, k // PACK])
        elif WHOLE_K:
            x_tile = tl.load(x_tiles + k)
            weight_tile = tl.load(weight_tiles + k // PACK)
        else:
            x_tile = tl.load(x_tiles + k, mask=(k + x_column)[None, :] < K, other=0.0)
            weight_tile = tl.load(weight_tiles + k // PACK, mask=(k // PACK + weight_column)[None, :] < K // PACK, other=0.0)
        if SCALING == "mx":
            if WHOLE_K:
                scale_tile = tl.load(scale_tiles + k // 32)
            else:
                scale_tile = tl.load(scale_tiles + k // 32, mask=(k // 32 + scale_column)[None, :] < K // 32, other=0)
            X_FORMAT: tl.constexpr = "bf16" if x_tile.dtype == tl.bfloat16 else "fp16"
            if SWAP_AB:
                acc = tl.dot_scaled(weight_tile, scale_tile, "e2m1", x_tile.T, None, X_FORMAT, acc)
            else:
                acc = tl.dot_scaled(x_tile, None, X_FORMAT, weight_tile.T, scale_tile, "e2m1", acc)
        elif SCALING == "block":
            group = k // 128
            scale = tl.load(x_scales_ptr + token.to(tl.int64) * X_SCALES_STRIDE + group)
            if BLOCK_N <= 128:
                # All channels of the tile lie in one block.
                scale *= tl.load(scales_ptr + first_channel // 128 * tl.cdiv(K, 128) + group)
                if SWAP_AB:
                    acc += tl.dot(weight_tile, x_tile.T) * scale[None, :]
                else:
                    acc += tl.dot(x_tile, weight_tile.T) * scale[:, None]
            else:
                weight_scale = tl.load(scales_ptr + channel // 128 * tl.cdiv(K, 128) + group)
                if SWAP_AB:
                    acc += tl.dot(weight_tile, x_tile.T) * (weight_scale[:, None] * scale[None, :])
                else:
                    acc += tl.dot(x_tile, weight_tile.T) * (scale[:, None] * weight_scale[None, :])
        else:
            # The tensor cores of sm_90 add fp8 products in fewer bits than fp32: after 128 of them the sum moves to registers.
            EXACT: tl.constexpr = 128 if BLOCK_K > 128 else BLOCK_K
            if SWAP_AB:
                acc = tl.dot(weight_tile, x_tile.T, acc, max_num_imprecise_acc=EXACT, out_dtype=ACC)
            else:
                acc = tl.dot(x_tile, weight_tile.T, acc, max_num_imprecise_acc=EXACT, out_dtype=ACC)
    if SWAP_AB:
        acc = acc.T
    return acc


@triton.jit
def scaled_matmul_kernel(
    x,
    weight,
    x_scales_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    width,
    N: tl.constexpr,
    K: tl.constexpr,
    X_STRIDE: tl.constexpr,
    X_SCALES_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    SCALING: tl.constexpr,
    INTEGER: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    PERSISTENT: tl.constexpr,
    USE_TMA: tl.constexpr,
    SWAP_AB: tl.constexpr,
):
    """`x` and `weight` are descriptors where USE_TMA. With several splits `out_ptr` is [SPLIT_K, T, N] and takes raw sums.

    `width` is K at run time: a loop whose length ptxas knows is unrolled to the end.
    """
    TILES_N: tl.constexpr = tl.cdiv(N, BLOCK_N)
    tiles_m = tl.cdiv(num_tokens, BLOCK_M)
    turns = tl.cdiv(tiles_m * TILES_N - tl.program_id(0), tl.num_programs(0)) if PERSISTENT else 1
    for turn in range(turns):
        tile_m, tile_n = _tile_of(tl.program_id(0) + turn * tl.num_programs(0), tiles_m, TILES_N, GROUP_M)
        acc = _accumulate(
            x,
            weight,
            x_scales_ptr,
            scales_ptr,
            tile_m * BLOCK_M,
            tile_n * BLOCK_N,
            num_tokens,
            width,
            N,
            K,
            X_STRIDE,
            X_SCALES_STRIDE,
            SCALING,
            INTEGER,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
            SPLIT_K,
            USE_TMA,
            SWAP_AB,
        )
        token = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
        channel = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
        inside = (token < num_tokens)[:, None] & (channel < N)[None, :]
        if SPLIT_K > 1:
            row = tl.program_id(1).to(tl.int64) * num_tokens + token
            tl.store(out_ptr + row[:, None] * N + channel[None, :], acc, mask=inside)
        else:
            value = _finished(acc, token, channel, x_scales_ptr, scales_ptr, bias_ptr, num_tokens, N, SCALING)
            target = out_ptr + token.to(tl.int64)[:, None] * OUT_STRIDE + channel[None, :]
            tl.store(target, value.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def sum_splits_kernel(
    partials_ptr,
    x_scales_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    N: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    SCALING: tl.constexpr,
    SPLIT_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Adds the sums of the splits of K in their order, whatever order they were computed in: the result is always the same."""
    token = tl.program_id(0) + tl.arange(0, 1)
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (channel < N)[None, :]
    acc = tl.zeros((1, BLOCK_N), partials_ptr.dtype.element_ty)
    for split in tl.static_range(SPLIT_K):
        row = token.to(tl.int64) + split * num_tokens.to(tl.int64)
        acc += tl.load(partials_ptr + row[:, None] * N + channel[None, :], mask=inside, other=0)
    value = _finished(acc, token, channel, x_scales_ptr, scales_ptr, bias_ptr, num_tokens, N, SCALING)
    target = out_ptr + token.to(tl.int64)[:, None] * OUT_STRIDE + channel[None, :]
    tl.store(target, value.to(out_ptr.dtype.element_ty), mask=inside)
