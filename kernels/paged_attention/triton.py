"""Attention over a paged KV cache: an online softmax in base 2 whose query tile packs the heads that share a kv head.

Row r of a query tile is head r % GROUP of the tile's token r // GROUP. The caches are seen as [num_blocks * BLOCK_SIZE, Hkv
D], a row for each slot; `k` and `v` are pointers, or TMA descriptors with boxes of [TILE, D]. Matrix operands are of the
dtype of activations, over an fp16 or a quantized cache f16: it holds every code exactly, has three more bits for p than bf16,
and is the dtype into which codes are converted fastest.
"""

import triton
import triton.language as tl

from kernels.gpu.triton import INTERPRETED


@triton.jit
def _f16_from_int8(codes, PACKED: tl.constexpr):
    if PACKED and not INTERPRETED:
        # Four codes in five instructions: the bits 0x6400 + u are the f16 number 1024 + u, and u = code + 128.
        return tl.inline_asm_elementwise(
            """
            {
            .reg .b32 biased, bias;
            xor.b32 biased, $2, 0x80808080;
            mov.b32 bias, 0x64806480;
            prmt.b32 $0, biased, 0x64646464, 0x4140;
            prmt.b32 $1, biased, 0x64646464, 0x4342;
            sub.f16x2 $0, $0, bias;
            sub.f16x2 $1, $1, bias;
            }
            """,
            "=&r,=&r,r",
            [codes],
            dtype=tl.float16,
            is_pure=True,
            pack=4,
        )
    else:
        return codes.to(tl.float16)


@triton.jit
def _slots(table_ptr, start, end, TILE: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """Where positions start .. start + TILE lie, i64: the slot of the first one if they share a block, else of each."""
    if TILE <= BLOCK_SIZE:
        return tl.load(table_ptr + start // BLOCK_SIZE).to(tl.int64) * BLOCK_SIZE + start % BLOCK_SIZE
    else:
        positions = start + tl.arange(0, TILE)
        blocks = tl.load(table_ptr + positions // BLOCK_SIZE, mask=positions < end, other=0)
        return blocks.to(tl.int64) * BLOCK_SIZE + positions % BLOCK_SIZE


@triton.jit
def _rows(slots, STRIDE: tl.constexpr, TILE: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """Offsets of a tile's rows in a tensor over slots: of one scalar and a constant range where the tile lies in a block."""
    if TILE <= BLOCK_SIZE:
        return slots * STRIDE, tl.arange(0, TILE) * STRIDE
    else:
        return 0, slots * STRIDE


@triton.jit
def _operand(
    cache,
    slots,
    inside,
    kv_head,
    DTYPE: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SLOT_STRIDE: tl.constexpr,
    USE_TMA: tl.constexpr,
    PACKED_INT8: tl.constexpr,
):
    """Keys or values at `slots`, [TILE, BLOCK_D]: zero beyond D, and in rows that are not `inside` if that is given."""
    if USE_TMA:
        tile = cache.load([slots.to(tl.int32), kv_head * D])
    else:
        columns = tl.arange(0, BLOCK_D)
        base, rows = _rows(slots, SLOT_STRIDE, TILE, BLOCK_SIZE)
        pointers = cache + base + kv_head * D + (rows[:, None] + columns[None, :])
        if inside is not None:
            tile = tl.load(pointers, mask=inside[:, None] & (columns[None, :] < D), other=0.0)
        elif D == BLOCK_D:
            tile = tl.load(pointers)
        else:
            tile = tl.load(pointers, mask=columns[None, :] < D, other=0.0)
    operand = _f16_from_int8(tile, PACKED_INT8) if tile.dtype == tl.int8 else tile.to(DTYPE)
    if USE_TMA and inside is not None:
        operand = tl.where(inside[:, None], operand, 0.0)
    return operand


@triton.jit
def _scales(scales_ptr, slots, inside, kv_head, TILE: tl.constexpr, BLOCK_SIZE: tl.constexpr, SCALE_STRIDE: tl.constexpr):
    """Scales of the keys or values at `slots`, f32 [1, TILE]."""
    base, rows = _rows(slots, SCALE_STRIDE, TILE, BLOCK_SIZE)
    if inside is None:
        scales = tl.load(scales_ptr + base + kv_head + rows)
    else:
        scales = tl.load(scales_ptr + base + kv_head + rows, mask=inside, other=0.0)
    return scales[None, :]


@triton.jit
def _attend(
    q,
    positions,
    first,
    last,
    begin,
    end,
    kv_head,
    k,
    v,
    k_scales_ptr,
    v_scales_ptr,
    table_ptr,
    sinks,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    D: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SLOT_STRIDE: tl.constexpr,
    SCALE_STRIDE: tl.constexpr,
    USE_TMA: tl.constexpr,
    PACKED_INT8: tl.constexpr,
):
    """Attention of queries at `positions`, first .. last, to keys begin .. end; begin is a multiple of TILE.

    Returns, per row, the largest exponent (in base 2), the sum of p, and the sum of p v; p is relative to the largest. `sinks`
    are scores of rows that stand before all keys and have no value, -inf where a row has none, or None.
    """
    LOG2_E: tl.constexpr = 1.4426950408889634
    LOG2_SCALE: tl.constexpr = LOG2_E * (SOFTCAP if SOFTCAP > 0 else SCALE)
    # Over a quantized cache p is 2^8 times as large, in its sum as well: times a scale of v it then stays normal in f16.
    OFFSET: tl.constexpr = 0.0 if v_scales_ptr is None else 8.0
    BLOCK_M: tl.constexpr = q.shape[0]
    BLOCK_D: tl.constexpr = q.shape[1]
    if sinks is None:
        maxima = tl.full([BLOCK_M], float("-inf"), tl.float32)
        sums = tl.zeros([BLOCK_M], tl.float32)
    else:
        maxima = sinks * LOG2_E
        sums = tl.where(sinks == float("-inf"), 0.0, tl.exp2(tl.full([BLOCK_M], OFFSET, tl.float32)))
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    # First the tiles that every query sees whole, without a mask; then those before and after. A softmax has no order.
    whole_begin = begin
    if WINDOW > 0:
        whole_begin = tl.minimum(tl.maximum(begin, tl.cdiv(tl.maximum(last + 1 - WINDOW, 0), TILE) * TILE), end)
    whole_end = tl.maximum(tl.minimum((first + 1) // TILE * TILE, end), whole_begin)
    before = tl.cdiv(whole_begin - begin, TILE) * TILE
    for MASKED in tl.static_range(2):
        num_keys = before + end - whole_end if MASKED else whole_end - whole_begin
        for offset in tl.range(0, num_keys, TILE):
            edge = tl.where(offset < before, begin + offset, whole_end + offset - before)
            start = edge if MASKED else whole_begin + offset
            keys = start + tl.arange(0, TILE)
            inside = keys < end if MASKED else None
            slots = _slots(table_ptr, start, end, TILE, BLOCK_SIZE)
            key = _operand(
                k, slots, None if USE_TMA else inside, kv_head,
                q.dtype, D, BLOCK_D, TILE, BLOCK_SIZE, SLOT_STRIDE, USE_TMA, PACKED_INT8,
            )  # fmt: skip
            scores = tl.dot(q, key.T)
            if k_scales_ptr is not None:
                scores *= _scales(k_scales_ptr, slots, inside, kv_head, TILE, BLOCK_SIZE, SCALE_STRIDE)
            if SOFTCAP > 0:
                # tanh(x) = 1 - 2 / (1 + e^2x)
                scores = 1.0 - 2.0 / (1.0 + tl.exp2(scores * (2.0 * LOG2_E * SCALE / SOFTCAP)))
            if MASKED:
                seen = inside[None, :] & (keys[None, :] <= positions[:, None])
                if WINDOW > 0:
                    seen = seen & (keys[None, :] > positions[:, None] - WINDOW)
                scores = tl.where(seen, scores, float("-inf"))
            # Scaled after the maximum, so that scaling and subtraction are one instruction.
            new_maxima = tl.maximum(maxima, tl.max(scores, axis=1) * LOG2_SCALE)
            # A row that has seen nothing yet has no maximum to subtract.
            subtracted = tl.where(new_maxima == float("-inf"), 0.0, new_maxima) if MASKED else new_maxima
            p = tl.exp2(scores * LOG2_SCALE - (subtracted - OFFSET)[:, None])
            alpha = tl.exp2(maxima - subtracted)
            sums = sums * alpha + tl.sum(p, axis=1)
            if v_scales_ptr is not None:
                p *= _scales(v_scales_ptr, slots, inside, kv_head, TILE, BLOCK_SIZE, SCALE_STRIDE)
            value = _operand(
                v, slots, inside, kv_head,
                q.dtype, D, BLOCK_D, TILE, BLOCK_SIZE, SLOT_STRIDE, USE_TMA, PACKED_INT8,
            )  # fmt: skip
            acc = tl.dot(p.to(q.dtype), value, acc * alpha[:, None])
            maxima = new_maxima
    return maxima, sums, acc


@triton.jit
def _query_tile(rows, count, kv_head, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Of the tile's rows, with `count` tokens: token in the tile, offset of the head in a token's row, and which there are."""
    columns = tl.arange(0, BLOCK_D)
    within = (kv_head * GROUP + rows % GROUP)[:, None] * D + columns[None, :]
    return rows // GROUP, within, (rows < count * GROUP)[:, None] & (columns < D)[None, :]


@triton.jit
def _sinks(sinks_ptr, rows, kv_head, GROUP: tl.constexpr):
    """Of the heads that a tile's rows are of; None where the model has none."""
    if sinks_ptr is None:
        return None
    else:
        return tl.load(sinks_ptr + kv_head * GROUP + rows % GROUP)


@triton.jit
def _load_q(pointers, inside, F16_OPERANDS: tl.constexpr):
    q = tl.load(pointers, mask=inside, other=0.0)
    if F16_OPERANDS:
        return tl.clamp(q.to(tl.float32), -65504.0, 65504.0).to(tl.float16)
    else:
        return q


@triton.jit
def prefill_kernel(
    q_ptr,
    k,
    v,
    k_scales_ptr,
    v_scales_ptr,
    block_tables_ptr,
    seq_lens_ptr,
    cu_seqlens_q_ptr,
    out_ptr,
    num_seqs,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    Q_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    TABLE_STRIDE: tl.constexpr,
    SLOT_STRIDE: tl.constexpr,
    SCALE_STRIDE: tl.constexpr,
    USE_TMA: tl.constexpr,
    PACKED_INT8: tl.constexpr,
    F16_OPERANDS: tl.constexpr,
    sinks_ptr=None,
):
    """Any number of query tokens per sequence: a program takes a tile of one sequence's tokens, for one kv head.

    Sequence s has the tiles from t // BLOCK_Q + s on, t being its first token: so tiles of two sequences never share a
    number, no number exceeds what shapes alone allow, and a binary search finds whose a number is. Some are nobody's.
    """
    BLOCK_Q: tl.constexpr = BLOCK_M // GROUP
    # A sequence's last tiles see the most keys: they go first.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1)
    sequence = tl.full((), 0, tl.int32)
    beyond = num_seqs
    while beyond - sequence > 1:
        middle = (sequence + beyond) // 2
        if tl.load(cu_seqlens_q_ptr + middle) // BLOCK_Q + middle <= tile:
            sequence = middle
        else:
            beyond = middle
    token = tl.load(cu_seqlens_q_ptr + sequence)
    num_tokens = tl.load(cu_seqlens_q_ptr + sequence + 1) - token
    offset = (tile - token // BLOCK_Q - sequence) * BLOCK_Q
    length = tl.load(seq_lens_ptr + sequence)
    if (offset >= num_tokens) | (length == 0):
        return
    count = tl.minimum(num_tokens - offset, BLOCK_Q)
    first = length - num_tokens + offset
    last = first + count - 1
    rows, within, inside = _query_tile(tl.arange(0, BLOCK_M), count, kv_head, GROUP, D, BLOCK_D)
    tokens = (token + offset + rows).to(tl.int64)[:, None]
    _, sums, acc = _attend(
        _load_q(q_ptr + tokens * Q_STRIDE + within, inside, F16_OPERANDS),
        first + tl.minimum(rows, count - 1), first, last,
        tl.maximum(first + 1 - WINDOW, 0) // TILE * TILE if WINDOW > 0 else 0, last + 1, kv_head,
        k, v, k_scales_ptr, v_scales_ptr, block_tables_ptr + sequence.to(tl.int64) * TABLE_STRIDE,
        _sinks(sinks_ptr, tl.arange(0, BLOCK_M), kv_head, GROUP),
        SCALE, SOFTCAP, WINDOW, D, TILE, BLOCK_SIZE, SLOT_STRIDE, SCALE_STRIDE, USE_TMA, PACKED_INT8,
    )  # fmt: skip
    out = (acc / sums[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + tokens * OUT_STRIDE + within, out, mask=inside)


@triton.jit
def _share(length, num_splits, WINDOW: tl.constexpr, TILE: tl.constexpr):
    """The first key that a decoding query sees, rounded down to a tile, and how many keys a split takes."""
    low = tl.maximum(length - WINDOW, 0) // TILE * TILE if WINDOW > 0 else 0
    return low, tl.cdiv(tl.cdiv(length - low, TILE), num_splits) * TILE


@triton.jit
def decode_kernel(
    q_ptr,
    k,
    v,
    k_scales_ptr,
    v_scales_ptr,
    block_tables_ptr,
    seq_lens_ptr,
    cu_seqlens_q_ptr,
    out_ptr,
    maxima_ptr,
    sums_ptr,
    partials_ptr,
    num_splits,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    Q_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    TABLE_STRIDE: tl.constexpr,
    SLOT_STRIDE: tl.constexpr,
    SCALE_STRIDE: tl.constexpr,
    USE_TMA: tl.constexpr,
    PACKED_INT8: tl.constexpr,
    F16_OPERANDS: tl.constexpr,
    sinks_ptr=None,
):
    """At most one query token per sequence: a program takes one kv head and one of `num_splits` even parts of the keys.

    It writes `out`, or, where partials_ptr is given, what `merge_kernel` makes it of.
    """
    kv_head = tl.program_id(0)
    split = tl.program_id(1)
    sequence = tl.program_id(2).to(tl.int64)
    token = tl.load(cu_seqlens_q_ptr + sequence).to(tl.int64)
    length = tl.load(seq_lens_ptr + sequence)
    low, share = _share(length, num_splits, WINDOW, TILE)
    begin = low + split * share
    if (token == tl.load(cu_seqlens_q_ptr + sequence + 1)) | (begin >= length):
        return
    rows = tl.arange(0, BLOCK_M)
    _, within, inside = _query_tile(rows, 1, kv_head, GROUP, D, BLOCK_D)
    last = length - 1
    sinks = _sinks(sinks_ptr, rows, kv_head, GROUP)
    if sinks is not None:
        # Once: in the first part.
        sinks = tl.where(split == 0, sinks, float("-inf"))
    maxima, sums, acc = _attend(
        _load_q(q_ptr + token * Q_STRIDE + within, inside, F16_OPERANDS),
        last + tl.zeros([BLOCK_M], tl.int32), last, last, begin, tl.minimum(begin + share, length), kv_head,
        k, v, k_scales_ptr, v_scales_ptr, block_tables_ptr + sequence * TABLE_STRIDE, sinks,
        SCALE, SOFTCAP, WINDOW, D, TILE, BLOCK_SIZE, SLOT_STRIDE, SCALE_STRIDE, USE_TMA, PACKED_INT8,
    )  # fmt: skip
    if partials_ptr is None:
        out = (acc / sums[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + token * OUT_STRIDE + within, out, mask=inside)
    else:
        heads = sequence * (tl.num_programs(0) * GROUP) + kv_head * GROUP + rows
        partial = heads * num_splits + split
        tl.store(maxima_ptr + partial, maxima, mask=rows < GROUP)
        tl.store(sums_ptr + partial, sums, mask=rows < GROUP)
        tl.store(partials_ptr + partial[:, None] * D + tl.arange(0, BLOCK_D)[None, :], acc, mask=inside)


@triton.jit
def merge_kernel(
    maxima_ptr,
    sums_ptr,
    partials_ptr,
    seq_lens_ptr,
    cu_seqlens_q_ptr,
    out_ptr,
    num_splits,
    WINDOW: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One softmax of the parts that decode_kernel wrote; a program takes one head of one sequence."""
    head = tl.program_id(0)
    sequence = tl.program_id(1).to(tl.int64)
    token = tl.load(cu_seqlens_q_ptr + sequence).to(tl.int64)
    length = tl.load(seq_lens_ptr + sequence)
    if (token == tl.load(cu_seqlens_q_ptr + sequence + 1)) | (length == 0):
        return
    low, share = _share(length, num_splits, WINDOW, TILE)
    num_parts = tl.cdiv(length - low, share)
    first = (sequence * tl.num_programs(0) + head) * num_splits
    parts = tl.arange(0, MAX_SPLITS)
    maxima = tl.load(maxima_ptr + first + parts, mask=parts < num_parts, other=float("-inf"))
    largest = tl.max(maxima, axis=0)
    total = tl.sum(tl.exp2(maxima - largest) * tl.load(sums_ptr + first + parts, mask=parts < num_parts, other=0.0), axis=0)
    columns = tl.arange(0, BLOCK_D)
    acc = tl.zeros([BLOCK_D], tl.float32)
    for start in tl.range(0, num_parts, CHUNK):
        chunk = start + tl.arange(0, CHUNK)
        weights = tl.exp2(tl.load(maxima_ptr + first + chunk, mask=chunk < num_parts, other=float("-inf")) - largest)
        inside = (chunk < num_parts)[:, None] & (columns < D)[None, :]
        pointers = partials_ptr + (first + chunk)[:, None] * D + columns[None, :]
        acc += tl.sum(weights[:, None] * tl.load(pointers, mask=inside, other=0.0), axis=0)
    out = (acc / total).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + token * OUT_STRIDE + head * D + columns, out, mask=columns < D)
