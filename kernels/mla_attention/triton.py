"""Attention over latents: a tile of (token, head) rows of one sequence, a stretch of its cache, and the sum of the stretches.

All heads read the same latents, so heads are rows: tokens x heads fill the tile, and a latent is loaded once as key and value.
"""

import triton
import triton.language as tl


@triton.jit
def _sequence_of(tile, cu_seqlens_ptr, num_seqs, H: tl.constexpr, BLOCK_M: tl.constexpr):
    """The sequence that has the tile: tiles of s begin at cu_seqlens[s] * H // BLOCK_M + s, so that no two share one."""
    low = 0
    high = num_seqs
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(cu_seqlens_ptr + middle) * H // BLOCK_M + middle <= tile:
            low = middle
        else:
            high = middle
    return low


@triton.jit
def mla_attention_kernel(
    q_ptr,
    cache_ptr,
    block_tables_ptr,
    seq_lens_ptr,
    cu_seqlens_ptr,
    out_ptr,
    lse_ptr,
    scale_log2,
    num_seqs,
    H: tl.constexpr,
    R: tl.constexpr,
    P: tl.constexpr,
    Q_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    TABLE_STRIDE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    DECODE: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """With one split `out` is the result; with more it is [S, NUM_SPLITS, H, R] in fp32, `lse` [S, NUM_SPLITS, H] in log2."""
    tile = tl.program_id(0)
    split = tl.program_id(1)
    if DECODE:
        TILES: tl.constexpr = (H + BLOCK_M - 1) // BLOCK_M
        sequence = tile // TILES
        first_row = tile % TILES * BLOCK_M
        first_token = tl.load(cu_seqlens_ptr + sequence)
    else:
        sequence = _sequence_of(tile, cu_seqlens_ptr, num_seqs, H, BLOCK_M)
        first_token = tl.load(cu_seqlens_ptr + sequence)
        first_row = (tile - (first_token * H // BLOCK_M + sequence)) * BLOCK_M
    num_tokens = tl.load(cu_seqlens_ptr + sequence + 1) - first_token
    length = tl.load(seq_lens_ptr + sequence)
    num_rows = tl.minimum(num_tokens, length) * H
    if first_row >= num_rows:
        return

    # 64-bit offsets are of the tile, 32-bit ones within it.
    tile_token = first_row // H
    token = (first_token + tile_token).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_M)
    read = tl.where(rows < num_rows, rows, first_row)
    positions = length - num_tokens + read // H
    # Where all rows are of one token, what it sees ends at `end`.
    ONE_TOKEN: tl.constexpr = DECODE or H % BLOCK_M == 0
    L: tl.constexpr = R + P
    latent = tl.arange(0, R)
    rotary = R + tl.arange(0, P)
    q_rows = q_ptr + token * Q_STRIDE + ((read // H - tile_token) * Q_STRIDE + read % H * L)[:, None]
    q = tl.load(q_rows + latent[None, :])
    q_pe = tl.load(q_rows + rotary[None, :])

    # What the last row of the tile sees, in equal stretches of whole tiles.
    end = length - num_tokens + (tl.minimum(first_row + BLOCK_M, num_rows) - 1) // H + 1
    per_split = tl.cdiv(tl.cdiv(end, BLOCK_N), NUM_SPLITS) * BLOCK_N
    begin = split * per_split
    end = tl.minimum(begin + per_split, end)
    table = block_tables_ptr + sequence.to(tl.int64) * TABLE_STRIDE
    columns = tl.arange(0, BLOCK_N)
    largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, R), tl.float32)
    for start in range(begin, end, BLOCK_N):
        visible = start + columns
        if BLOCK_N <= BLOCK_SIZE:
            slot = tl.load(table + start // BLOCK_SIZE).to(tl.int64) * BLOCK_SIZE + start % BLOCK_SIZE
            kv_rows = cache_ptr + slot * L + (columns * L)[:, None]
        else:
            block = tl.load(table + visible // BLOCK_SIZE, mask=visible < end, other=0).to(tl.int64)
            kv_rows = cache_ptr + ((block * BLOCK_SIZE + visible % BLOCK_SIZE) * L)[:, None]
        # A block may hold anything beyond its sequence's end, even NaN.
        inside = (visible < end)[:, None]
        kv = tl.load(kv_rows + latent[None, :], mask=inside, other=0.0)
        k_pe = tl.load(kv_rows + rotary[None, :], mask=inside, other=0.0)
        scores = tl.dot(q_pe, tl.trans(k_pe))
        scores = tl.dot(q, tl.trans(kv), scores) * scale_log2
        seen = (visible < end)[None, :]
        if not ONE_TOKEN:
            seen = seen & (visible[None, :] <= positions[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, axis=1))
        rescale = tl.exp2(largest - new_largest)
        weights = tl.exp2(scores - new_largest[:, None])
        total = total * rescale + tl.sum(weights, axis=1)
        acc = tl.dot(weights.to(kv.dtype), kv, acc * rescale[:, None])
        largest = new_largest

    # Where rows lie is made anew from what is read anew: kept across the loop, it would be spilled.
    first_token = tl.load(cu_seqlens_ptr + sequence, volatile=True)
    num_tokens = tl.load(cu_seqlens_ptr + sequence + 1, volatile=True) - first_token
    if DECODE:
        first_row = tile % TILES * BLOCK_M + (num_tokens - 1)
    else:
        first_row = (tile - (first_token * H // BLOCK_M + sequence)) * BLOCK_M
    tile_token = first_row // H
    token = (first_token + tile_token).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_M)
    exists = rows < num_tokens * H
    if NUM_SPLITS == 1:
        out = out_ptr + token * OUT_STRIDE + ((rows // H - tile_token) * OUT_STRIDE + rows % H * R)[:, None] + latent[None, :]
        tl.store(out, (acc * (1.0 / total)[:, None]).to(out_ptr.dtype.element_ty), mask=exists[:, None])
    else:
        partial = (sequence * NUM_SPLITS + split).to(tl.int64) * H
        # A stretch that is empty has no weight, and a largest score of -inf.
        total = tl.where(total > 0, total, 1.0)
        tl.store(lse_ptr + partial + rows, largest + tl.log2(total), mask=exists)
        out = out_ptr + partial * R + (rows * R)[:, None] + latent[None, :]
        tl.store(out, acc * (1.0 / total)[:, None], mask=exists[:, None])


@triton.jit
def mla_reduce_kernel(
    partial_ptr,
    lse_ptr,
    seq_lens_ptr,
    cu_seqlens_ptr,
    out_ptr,
    H: tl.constexpr,
    R: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
):
    """One head of one decoding sequence: its stretches weighed by their share of the softmax's sum."""
    sequence = tl.program_id(0)
    head = tl.program_id(1)
    token = tl.load(cu_seqlens_ptr + sequence)
    if (tl.load(cu_seqlens_ptr + sequence + 1) == token) | (tl.load(seq_lens_ptr + sequence) == 0):
        return
    splits = tl.arange(0, NUM_SPLITS)
    row = sequence.to(tl.int64) * (NUM_SPLITS * H) + head
    lse = tl.load(lse_ptr + row + splits * H)
    largest = tl.max(lse, axis=0)
    total = tl.sum(tl.exp2(lse - largest), axis=0)
    latent = tl.arange(0, R)
    acc = tl.zeros((R,), tl.float32)
    for split in range(NUM_SPLITS):
        share = tl.exp2(tl.load(lse_ptr + row + split * H) - largest)
        # What an empty stretch would have written is not there.
        if share > 0.0:
            acc += share * tl.load(partial_ptr + (row + split * H) * R + latent)
    tl.store(out_ptr + token.to(tl.int64) * OUT_STRIDE + head * R + latent, (acc / total).to(out_ptr.dtype.element_ty))
