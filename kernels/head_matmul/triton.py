"""One matrix per head: a tile of tokens times a tile of the head's channels."""

import triton
import triton.language as tl


@triton.jit
def head_matmul_kernel(
    x_ptr,
    weight_ptr,
    out_ptr,
    T,
    N: tl.constexpr,
    K: tl.constexpr,
    X_STRIDE: tl.constexpr,
    X_WIDTH: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SWAP: tl.constexpr,
):
    NUM_N: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    head = tl.program_id(1)
    tokens = tl.program_id(0) // NUM_N * BLOCK_M + tl.arange(0, BLOCK_M)
    channels = tl.program_id(0) % NUM_N * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_K)
    # Rows outside read row 0, and are not stored.
    x_tile = x_ptr + (tl.where(tokens < T, tokens, 0).to(tl.int64) * X_STRIDE + head * X_WIDTH)[:, None] + columns[None, :]
    weight_tile = (
        weight_ptr + head.to(tl.int64) * (N * K) + (tl.where(channels < N, channels, 0) * K)[:, None] + columns[None, :]
    )
    acc = tl.zeros((BLOCK_N, BLOCK_M) if SWAP else (BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            x = tl.load(x_tile + start)
            weight = tl.load(weight_tile + start)
        else:
            x = tl.load(x_tile + start, mask=(start + columns < K)[None, :], other=0.0)
            weight = tl.load(weight_tile + start, mask=(start + columns < K)[None, :], other=0.0)
        # The operand of at least 64 rows comes first, as wgmma wants it.
        left, right = (weight, x) if SWAP else (x, weight)
        acc = tl.dot(left, tl.trans(right), acc)
    result = (tl.trans(acc) if SWAP else acc).to(out_ptr.dtype.element_ty)
    out = out_ptr + (tokens.to(tl.int64) * OUT_STRIDE + head * OUT_WIDTH)[:, None] + channels[None, :]
    tl.store(out, result, mask=(tokens < T)[:, None] & (channels < N)[None, :])
