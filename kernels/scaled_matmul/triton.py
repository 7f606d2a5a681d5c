"""Tiles of x times the transpose of a weight of its dtype; scales are applied to the accumulator, which is fp32 or int32.

A program computes BLOCK_M tokens x BLOCK_N channels over one of SPLIT_K ranges of K. With SWAP_AB the weight is the left
operand of the matrix instruction, so that its 64 rows are channels and 16 tokens need not be padded to 64. Rows beyond the
last token or channel are read as the last one, and their results are not stored: the loop needs no mask over rows.
"""

import triton
import triton.language as tl

from kernels.e2m1.triton import MX_SLOTS, widen_e2m1
from kernels.gpu.triton import INTERPRETED

_WIDEN_BF16, _WIDEN_F16 = tl.constexpr(widen_e2m1("bf16", 6)), tl.constexpr(widen_e2m1("f16", 9))
_WIDEN_REGISTERS = tl.constexpr("=h,=h,=h,=h,=h,=h,=h,=h,r,r,r")
_SLOTS = tl.constexpr(MX_SLOTS)
#: packing.py's, said again.
_SHRINK = tl.constexpr(128.0)


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
def row_pointers(pointer, first, count, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Pointers [BLOCK, 1] to rows from `first` on; for those that are not there, to the last."""
    row = tl.minimum(first + tl.arange(0, BLOCK), count - 1)
    return pointer + row.to(tl.int64)[:, None] * STRIDE


@triton.jit
def _columns(rows, first, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK columns of `rows` from `first` on; zeros beyond WIDTH."""
    column = first + tl.arange(0, BLOCK)[None, :]
    if WIDTH % BLOCK == 0:
        return tl.load(rows + column)
    else:
        return tl.load(rows + column, mask=column < WIDTH, other=0.0)


@triton.jit
def _range_of_split(width, K: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT_K: tl.constexpr):
    """[start, end) of the K that this program sums over."""
    BLOCKS: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    PER_SPLIT: tl.constexpr = (BLOCKS + SPLIT_K - 1) // SPLIT_K * BLOCK_K
    start = tl.program_id(1) * PER_SPLIT
    return start, tl.minimum(start + PER_SPLIT, width)


@triton.jit
def _finished(acc, token, channel, x_scales_ptr, scales_ptr, bias_ptr, num_tokens, N: tl.constexpr, SCALING: tl.constexpr):
    """What the accumulator of a tile stands for, in fp32."""
    value = acc.to(tl.float32)
    if SCALING == "channel" or SCALING == "tensor" or SCALING == "rows":
        scale = tl.load(scales_ptr + channel, mask=channel < N, other=0.0)[None, :]
        if SCALING == "channel":
            scale = tl.load(x_scales_ptr + token, mask=token < num_tokens, other=0.0)[:, None] * scale
        elif SCALING == "tensor":
            scale = tl.load(x_scales_ptr) * scale
        value *= scale
    if bias_ptr is not None:
        value += tl.load(bias_ptr + channel, mask=channel < N, other=0.0)[None, :]
    return value


@triton.jit
def _store(
    acc,
    first_token,
    first_channel,
    x_scales_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    N: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    SCALING: tl.constexpr,
    SPLIT_K: tl.constexpr,
):
    """Writes a tile: finished, or with several splits the raw sums of this one."""
    token = first_token + tl.arange(0, acc.shape[0])
    channel = first_channel + tl.arange(0, acc.shape[1])
    inside = (token < num_tokens)[:, None] & (channel < N)[None, :]
    if SPLIT_K > 1:
        split_ptr = out_ptr + tl.program_id(1).to(tl.int64) * num_tokens * N
        tl.store(row_pointers(split_ptr, first_token, num_tokens, N, acc.shape[0]) + channel[None, :], acc, mask=inside)
    else:
        value = _finished(acc, token, channel, x_scales_ptr, scales_ptr, bias_ptr, num_tokens, N, SCALING)
        rows = row_pointers(out_ptr, first_token, num_tokens, OUT_STRIDE, acc.shape[0])
        tl.store(rows + channel[None, :], value.to(out_ptr.dtype.element_ty), mask=inside)


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
    STAGES: tl.constexpr,
):
    """The sum over this split's range of K, [BLOCK_M, BLOCK_N]."""
    if not USE_TMA:
        x_rows = row_pointers(x, first_token, num_tokens, X_STRIDE, BLOCK_M)
        weight_rows = row_pointers(weight, first_channel, N, K, BLOCK_N)
    if SCALING == "block":
        x_scale_rows = row_pointers(x_scales_ptr, first_token, num_tokens, X_SCALES_STRIDE, BLOCK_M)
        # Up to 128 channels of a tile lie in one block.
        block = (tl.minimum(first_channel + tl.arange(0, BLOCK_N), N - 1) if BLOCK_N > 128 else first_channel) // 128
        scale_rows = scales_ptr + block * tl.cdiv(K, 128)

    ACC: tl.constexpr = tl.int32 if INTEGER else tl.float32
    acc = tl.zeros((BLOCK_N, BLOCK_M), ACC) if SWAP_AB else tl.zeros((BLOCK_M, BLOCK_N), ACC)
    start, end = _range_of_split(width, K, BLOCK_K, SPLIT_K)
    # Said here and not for the whole kernel, that scales are pipelined too.
    for k in tl.range(start, end, BLOCK_K, num_stages=STAGES):
        if USE_TMA:
            x_tile = x.load([first_token, k])
            weight_tile = weight.load([first_channel, k])
        else:
            x_tile = _columns(x_rows, k, K, BLOCK_K)
            weight_tile = _columns(weight_rows, k, K, BLOCK_K)
        if SCALING == "block":
            x_scale = tl.load(x_scale_rows + k // 128)
            scale = tl.load(scale_rows + k // 128)
            if SWAP_AB:
                by_channel = scale[:, None] if BLOCK_N > 128 else scale
                acc += tl.dot(weight_tile, x_tile.T) * (by_channel * x_scale.T)
            else:
                by_channel = scale[None, :] if BLOCK_N > 128 else scale
                acc += tl.dot(x_tile, weight_tile.T) * (by_channel * x_scale)
        else:
            # The tensor cores of sm_90 add fp8 products in fewer bits than fp32: after 128 of them the sum moves to registers.
            EXACT: tl.constexpr = 128 if BLOCK_K > 128 else BLOCK_K
            if SWAP_AB:
                acc = tl.dot(weight_tile, x_tile.T, acc, max_num_imprecise_acc=EXACT, out_dtype=ACC)
            else:
                acc = tl.dot(x_tile, weight_tile.T, acc, max_num_imprecise_acc=EXACT, out_dtype=ACC)
    return acc.T if SWAP_AB else acc


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
    STAGES: tl.constexpr,
):
    """`x` and `weight` are descriptors where USE_TMA. With several splits `out_ptr` is [SPLIT_K, T, N] and takes raw sums.

    `width` is K at run time: a loop whose length ptxas knows is unrolled to the end.
    """
    TILES_N: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
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
            STAGES,
        )
        _store(
            acc,
            tile_m * BLOCK_M,
            tile_n * BLOCK_N,
            x_scales_ptr,
            scales_ptr,
            bias_ptr,
            out_ptr,
            num_tokens,
            N,
            OUT_STRIDE,
            SCALING,
            SPLIT_K,
        )


@triton.jit
def _numbers(words, multiplier, SIGN: tl.constexpr, REST: tl.constexpr, ACT: tl.constexpr):
    """What `widen_e2m1` makes of a slot of both halves."""
    LOWEST: tl.constexpr = 6 if ACT.is_bf16() else 9
    low = (((words >> SIGN) & 1) << 15) | (((words >> REST) & 7) << LOWEST)
    high = (((words >> (16 + SIGN)) & 1) << 15) | (((words >> (16 + REST)) & 7) << LOWEST)
    return low.to(tl.uint16).to(ACT, bitcast=True) * multiplier, high.to(tl.uint16).to(ACT, bitcast=True) * multiplier


@triton.jit
def _scale_bytes(words):
    """u32 [tiles, chunks * 8] -> its bytes [tiles, chunks, row % 8, 1, k / 32, row / 8]."""
    low = tl.join(words & 0xFF, (words >> 8) & 0xFF)
    high = tl.join((words >> 16) & 0xFF, words >> 24)
    return tl.permute(tl.join(low, high), (0, 1, 3, 2)).reshape(words.shape[0], words.shape[1] // 8, 8, 1, 2, 2)


@triton.jit
def _e8m0_multiplier(words, ACT: tl.constexpr):
    """The scales over `_SHRINK`, times what the position of the bits divides a number by; in both halves."""
    if ACT.is_bf16():
        return _scale_bytes(words) * 0x00800080 + 0x3B803B80
    else:
        power = ((_scale_bytes(words) + 7) << 23).to(tl.float32, bitcast=True).to(ACT)
        return power.to(tl.uint16, bitcast=True).to(tl.uint32) * 0x00010001


@triton.jit
def _e4m3_multiplier(words, ACT: tl.constexpr):
    """As `_e8m0_multiplier`."""
    if ACT.is_bf16():
        return _scale_bytes(words) * 0x00100010 + 0x76007600
    else:
        return _scale_bytes(words) * 0x00800080 + 0x30003000


@triton.jit
def _float4_weight(words, first, second, ACT: tl.constexpr, ASM: tl.constexpr):
    """codes u32 [tiles, chunks * 128] -> [tiles * 16, chunks * 64] in ACT, times the multipliers of even and of odd k / 16,
    u32 [tiles, chunks, row % 8, 1, k / 32, row / 8]."""
    TILES: tl.constexpr = words.shape[0]
    CHUNKS: tl.constexpr = words.shape[1] // 128
    # [tile, chunk, row % 8, k / 2 % 4, k / 32, row / 8]
    words = words.reshape(TILES, CHUNKS, 8, 4, 2, 2)
    if ASM and not INTERPRETED:
        if ACT.is_bf16():
            a0, a1, b0, b1, c0, c1, d0, d1 = tl.inline_asm_elementwise(
                _WIDEN_BF16, _WIDEN_REGISTERS, [words, first, second], dtype=(tl.bfloat16,) * 8, is_pure=True, pack=1
            )
        else:
            a0, a1, b0, b1, c0, c1, d0, d1 = tl.inline_asm_elementwise(
                _WIDEN_F16, _WIDEN_REGISTERS, [words, first, second], dtype=(tl.float16,) * 8, is_pure=True, pack=1
            )
    else:
        first, second = first.to(tl.uint16).to(ACT, bitcast=True), second.to(tl.uint16).to(ACT, bitcast=True)
        a0, a1 = _numbers(words, first, _SLOTS[0][0], _SLOTS[0][1], ACT)
        b0, b1 = _numbers(words, first, _SLOTS[1][0], _SLOTS[1][1], ACT)
        c0, c1 = _numbers(words, second, _SLOTS[2][0], _SLOTS[2][1], ACT)
        d0, d1 = _numbers(words, second, _SLOTS[3][0], _SLOTS[3][1], ACT)
    # [..., k % 2, k / 8 % 2, k / 16 % 2]
    numbers = tl.join(tl.join(tl.join(a0, a1), tl.join(b0, b1)), tl.join(tl.join(c0, c1), tl.join(d0, d1)))
    return tl.permute(numbers, (0, 5, 2, 1, 4, 8, 7, 3, 6)).reshape(TILES * 16, CHUNKS * 64)


@triton.jit
def sum_float4(
    x_rows,
    code_rows,
    scale_rows,
    start,
    end,
    K: tl.constexpr,
    NV: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ASM: tl.constexpr,
):
    """f32 [channels, tokens]: a tile of channels times rows of x, over [start, end) of K, where `start` is a multiple of 64.

    `x_rows` points to rows of x, [tokens, 1]; `code_rows` and `scale_rows` to the codes and scales of 16 channels each. NVFP4's
    `row_scales` are not in the sum.
    """
    ACT: tl.constexpr = x_rows.dtype.element_ty
    SCALE_WORDS: tl.constexpr = 16 if NV else 8
    CHUNKS: tl.constexpr = (K + 63) // 64
    CODE_TILES: tl.constexpr = code_rows.shape[0]
    acc = tl.zeros((CODE_TILES * 16, x_rows.shape[0]), tl.float32)
    for k in range(start, end, BLOCK_K):
        x = _columns(x_rows, k, K, BLOCK_K)
        words = _columns(code_rows, k * 2, CHUNKS * 128, BLOCK_K * 2)
        scale_words = _columns(scale_rows, k // 64 * SCALE_WORDS, CHUNKS * SCALE_WORDS, BLOCK_K // 64 * SCALE_WORDS)
        if NV:
            even, odd = tl.split(scale_words.reshape(CODE_TILES, BLOCK_K // 8, 2))
            first, second = _e4m3_multiplier(even, ACT), _e4m3_multiplier(odd, ACT)
        else:
            first = _e8m0_multiplier(scale_words, ACT)
            second = first
        acc = tl.dot(_float4_weight(words, first, second, ACT, ASM), x.T, acc)
    return acc * _SHRINK


@triton.jit
def float4_matmul_kernel(
    x_ptr,
    codes_ptr,
    local_scales_ptr,
    x_scales_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    width,
    N: tl.constexpr,
    K: tl.constexpr,
    X_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    SCALING: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    PERSISTENT: tl.constexpr,
    ASM: tl.constexpr,
):
    """As `scaled_matmul_kernel` with SWAP_AB; the codes lie as the matrix instruction's fragments and reach it by registers.

    MXFP4 where SCALING is "none"; NVFP4, whose `scales_ptr` is of the rows, where it is "rows".
    """
    NV: tl.constexpr = SCALING == "rows"
    SCALE_WORDS: tl.constexpr = 16 if NV else 8
    TILES_N: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    CHUNKS: tl.constexpr = (K + 63) // 64
    CODE_ROWS: tl.constexpr = (N + 15) // 16
    tiles_m = tl.cdiv(num_tokens, BLOCK_M)
    turns = tl.cdiv(tiles_m * TILES_N - tl.program_id(0), tl.num_programs(0)) if PERSISTENT else 1
    for turn in range(turns):
        tile_m, tile_n = _tile_of(tl.program_id(0) + turn * tl.num_programs(0), tiles_m, TILES_N, GROUP_M)
        x_rows = row_pointers(x_ptr, tile_m * BLOCK_M, num_tokens, X_STRIDE, BLOCK_M)
        code_rows = row_pointers(codes_ptr, tile_n * (BLOCK_N // 16), CODE_ROWS, CHUNKS * 128, BLOCK_N // 16)
        scale_rows = row_pointers(local_scales_ptr, tile_n * (BLOCK_N // 16), CODE_ROWS, CHUNKS * SCALE_WORDS, BLOCK_N // 16)
        start, end = _range_of_split(width, K, BLOCK_K, SPLIT_K)
        acc = sum_float4(x_rows, code_rows, scale_rows, start, end, K, NV, BLOCK_K, ASM)
        _store(
            acc.T,
            tile_m * BLOCK_M,
            tile_n * BLOCK_N,
            x_scales_ptr,
            scales_ptr,
            bias_ptr,
            out_ptr,
            num_tokens,
            N,
            OUT_STRIDE,
            SCALING,
            SPLIT_K,
        )


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
        rows = row_pointers(partials_ptr + num_tokens.to(tl.int64) * (split * N), tl.program_id(0), num_tokens, N, 1)
        acc += tl.load(rows + channel[None, :], mask=inside, other=0)
    value = _finished(acc, token, channel, x_scales_ptr, scales_ptr, bias_ptr, num_tokens, N, SCALING)
    rows = row_pointers(out_ptr, tl.program_id(0), num_tokens, OUT_STRIDE, 1)
    tl.store(rows + channel[None, :], value.to(out_ptr.dtype.element_ty), mask=inside)
