"""Matrix products over quantized weights: codes become exact integers in the activation dtype, the matrix units multiply them,
and scales meet the sums in fp32.

int4: weights are the M of the product and tokens its N, so that 8 tokens fill an instruction and 128 rows of weights feed wgmma
from registers. The packed order (gpu_packing.py) is that of the matrix instruction's fragments: what a thread loads is what it
multiplies, no value changes hands. A block along K is cut into steps that lie within one group; a step's product is scaled and
added.

int8: tokens are M, and the scale of a row meets its finished sum.

On NVIDIA, codes are widened by inline assembly: bits of the code are put under the exponent of a power of two whose ulp is 1,
and that power is subtracted again. The interpreter and AMD take the plain conversion, which gives the same bits.
"""

import triton
import triton.language as tl

from kernels.gpu.triton import INTERPRETED


def _widen_int4(power: str, one: str, fma: str) -> str:
    """PTX: $8 has eight codes, $9 twice -(power + zero); $0 .. $7 become code - zero, of nibble i of both halves in pair i."""
    pairs = (
        f"shr.u32 pair, $8, {4 * i};\n"
        f"lop3.b32 pair, pair, 0x000f000f, {power}, 0xea;\n"
        f"{fma} pair, pair, one, $9;\n"
        f"mov.b32 {{${2 * i}, ${2 * i + 1}}}, pair;\n"
        for i in range(4)
    )
    return f"{{\n.reg .b32 pair, one;\nmov.b32 one, {one};\n{''.join(pairs)}}}"


#: (word & 0x000f000f) | 128.0 or 1024.0 is 128 + code or 1024 + code, in both halves.
_INT4_BF16 = tl.constexpr(_widen_int4("0x43004300", "0x3f803f80", "fma.rn.bf16x2"))
_INT4_F16 = tl.constexpr(_widen_int4("0x64006400", "0x3c003c00", "fma.rn.f16x2"))

#: bf16 has seven bits under the exponent: (128 + low seven bits) - (128, or 256 where the sign bit is set).
_INT8_BF16 = tl.constexpr(
    """{
.reg .b32 pair, low, high, one;
mov.b32 one, 0x3f803f80;
prmt.b32 pair, $2, 0, 0x4140;
lop3.b32 low, pair, 0x007f007f, 0x43004300, 0xea;
lop3.b32 high, pair, 0x00800080, 0xc300c300, 0xea;
fma.rn.bf16x2 $0, low, one, high;
prmt.b32 pair, $2, 0, 0x4342;
lop3.b32 low, pair, 0x007f007f, 0x43004300, 0xea;
lop3.b32 high, pair, 0x00800080, 0xc300c300, 0xea;
fma.rn.bf16x2 $1, low, one, high;
}"""
)

#: f16 has ten: 1024 + (code + 128) - 1152, the inner sum being the code with its top bit inverted.
_INT8_F16 = tl.constexpr(
    """{
.reg .b32 pair, flipped, power, one, offset;
mov.b32 power, 0x64646464;
mov.b32 one, 0x3c003c00;
mov.b32 offset, 0xe480e480;
xor.b32 flipped, $2, 0x80808080;
prmt.b32 pair, flipped, power, 0x4140;
fma.rn.f16x2 $0, pair, one, offset;
prmt.b32 pair, flipped, power, 0x4342;
fma.rn.f16x2 $1, pair, one, offset;
}"""
)


@triton.jit
def _code(words, zeros, BIT: tl.constexpr, ACT: tl.constexpr):
    return (((words >> BIT) & 15).to(tl.int32) - zeros.to(tl.int32)).to(tl.float32).to(ACT)


@triton.jit
def widen_int4(words, zeros, ACT: tl.constexpr, ASM: tl.constexpr):
    """Codes of `words` less `zeros` (u32 below 128), exact in ACT: of low and high half in turn, low nibble first."""
    if ASM and not INTERPRETED:
        if ACT.is_bf16():
            return tl.inline_asm_elementwise(
                _INT4_BF16,
                "=h,=h,=h,=h,=h,=h,=h,=h,r,r",
                [words, zeros * 0x00010001 + 0xC300C300],
                dtype=(tl.bfloat16,) * 8,
                is_pure=True,
                pack=1,
            )
        else:
            return tl.inline_asm_elementwise(
                _INT4_F16,
                "=h,=h,=h,=h,=h,=h,=h,=h,r,r",
                [words, zeros * 0x00010001 + 0xE400E400],
                dtype=(tl.float16,) * 8,
                is_pure=True,
                pack=1,
            )
    else:
        return (
            _code(words, zeros, 0, ACT),
            _code(words, zeros, 16, ACT),
            _code(words, zeros, 4, ACT),
            _code(words, zeros, 20, ACT),
            _code(words, zeros, 8, ACT),
            _code(words, zeros, 24, ACT),
            _code(words, zeros, 12, ACT),
            _code(words, zeros, 28, ACT),
        )


@triton.jit
def widen_int8(codes, ACT: tl.constexpr, ASM: tl.constexpr):
    """i8 codes, exact in ACT."""
    if ASM and not INTERPRETED:
        if ACT.is_bf16():
            return tl.inline_asm_elementwise(_INT8_BF16, "=r,=r,r", [codes], dtype=tl.bfloat16, is_pure=True, pack=4)
        else:
            return tl.inline_asm_elementwise(_INT8_F16, "=r,=r,r", [codes], dtype=tl.float16, is_pure=True, pack=4)
    else:
        return codes.to(tl.float32).to(ACT)


@triton.jit
def _load(pointers, inside):
    """What lies outside reads as zero; `inside` is None where nothing does."""
    if inside is None:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=inside, other=0)


@triton.jit
def _tile(num_tokens, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """(tile of tokens, tile of rows) of this program: GROUP_M tiles of tokens go over the rows together and find them in L2."""
    num_m = tl.cdiv(num_tokens, BLOCK_M)
    in_group = GROUP_M * tl.cdiv(N, BLOCK_N)
    group = tl.program_id(0) // in_group
    within = tl.program_id(0) % in_group
    height = min(num_m - group * GROUP_M, GROUP_M)
    return group * GROUP_M + within % height, within // height


@triton.jit
def _blocks(K: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT_K: tl.constexpr):
    """[begin, end): the blocks along K that this program sums over."""
    NUM_BLOCKS: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    PER_SPLIT: tl.constexpr = (NUM_BLOCKS + SPLIT_K - 1) // SPLIT_K
    begin = tl.program_id(1) * PER_SPLIT
    return begin, min(begin + PER_SPLIT, NUM_BLOCKS)


@triton.jit
def _write(product, bias_ptr, out_ptr, tokens, rows, num_tokens, N: tl.constexpr, OUT_STRIDE: tl.constexpr):
    """product [tokens, rows] to this split's part of `out`, with the bias if there is one."""
    inside = (tokens[:, None] < num_tokens) & (rows[None, :] < N)
    if bias_ptr is not None:
        product += tl.load(bias_ptr + rows, mask=rows < N, other=0.0)[None, :]
    line = tl.program_id(1).to(tl.int64) * num_tokens + tokens
    out = out_ptr + line[:, None] * OUT_STRIDE + rows[None, :]
    tl.store(out, product.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _octets(words, zeros, ACT: tl.constexpr, ASM: tl.constexpr):
    """words [tiles, chunks, 8, 4] -> codes less zeros [tiles, chunks, 8, 4, k % 2, k / 8 % 2, k / 16 % 2]."""
    a0, a1, b0, b1, c0, c1, d0, d1 = widen_int4(words, zeros, ACT, ASM)
    return tl.join(tl.join(tl.join(a0, a1), tl.join(b0, b1)), tl.join(tl.join(c0, c1), tl.join(d0, d1)))


@triton.jit
def _fragments(words, upper_zeros, lower_zeros, ACT: tl.constexpr, ASM: tl.constexpr):
    """words [tiles, chunks of 32 columns, 8, 4, 2], zeros of rows 0..7 and 8..15 -> weights [tiles * 16, chunks * 32]."""
    upper, lower = tl.split(words)
    codes = tl.join(_octets(upper, upper_zeros, ACT, ASM), _octets(lower, lower_zeros, ACT, ASM))
    # [tile, chunk, row % 8, k / 2 % 4, k % 2, k / 8 % 2, k / 16 % 2, row / 8]
    ordered = tl.permute(codes, (0, 7, 2, 1, 6, 5, 3, 4))
    return tl.reshape(ordered, (words.shape[0] * 16, words.shape[1] * 32))


@triton.jit
def _f16_bits(bits):
    return bits.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _scaled_product(words, x, scales, zeros, ACT: tl.constexpr, ASM: tl.constexpr):
    """One group's part of the product, f32 [rows, tokens]. scales u32 [tiles * 8], rows 0..7 of a tile in the low halves and
    rows 8..15 in the high ones; zeros the same, or None: 8."""
    TILES: tl.constexpr = words.shape[0]
    if zeros is None:
        eight = tl.full((1, 1, 1, 1), 8, tl.uint32)
        weight = _fragments(words, eight, eight, ACT, ASM)
    else:
        of_row = tl.reshape(zeros, (TILES, 1, 8, 1))
        weight = _fragments(words, of_row & 0xFFFF, of_row >> 16, ACT, ASM)
    # Widened before they are put in order: the compiler then brings scales by asynchronous copy, as it does codes.
    halves = tl.reshape(tl.join(_f16_bits(scales & 0xFFFF), _f16_bits(scales >> 16)), (TILES, 8, 2))
    by_row = tl.reshape(tl.permute(halves, (0, 2, 1)), (TILES * 16,))
    return tl.dot(weight, tl.trans(x)) * by_row[:, None]


@triton.jit
def sum_int4(
    x_rows,
    x_exists,
    codes_ptr,
    scales_ptr,
    zeros_ptr,
    block_n,
    begin,
    end,
    N: tl.constexpr,
    K: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    ASM: tl.constexpr,
):
    """f32 [BLOCK_N, BLOCK_M]: tile `block_n` of a matrix's rows times rows of x, over the blocks [begin, end) along K.

    `x_rows` points to rows of x, [BLOCK_M, 1], and `x_exists` says which of them there are; `scales_ptr` is to pairs of scales.
    """
    ACT: tl.constexpr = x_rows.dtype.element_ty
    TILES: tl.constexpr = (N + 15) // 16
    WORDS: tl.constexpr = (K + 63) // 64 * 128
    GROUPS: tl.constexpr = K // GROUP_SIZE
    BLOCK_TILES: tl.constexpr = BLOCK_N // 16
    # A chunk of words holds 64 columns; a group of x may be half of one.
    STEP: tl.constexpr = min(BLOCK_K, max(GROUP_SIZE, 64))
    X_STEP: tl.constexpr = min(STEP, GROUP_SIZE)
    EVEN_N: tl.constexpr = N % BLOCK_N == 0
    EVEN_K: tl.constexpr = K % BLOCK_K == 0

    tiles = block_n * BLOCK_TILES + tl.arange(0, BLOCK_TILES)
    pairs = block_n * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
    columns = tl.arange(0, X_STEP)
    words = tl.arange(0, STEP * 2)
    of_pair = pairs // 8 * (GROUPS * 8) + begin * BLOCK_K // GROUP_SIZE * 8 + pairs % 8

    x_pointers = x_rows + (begin * BLOCK_K + columns)[None, :]
    code_pointers = codes_ptr + tiles[:, None] * WORDS + (begin * BLOCK_K * 2 + words)[None, :]
    scale_pointers = scales_ptr + of_pair
    if zeros_ptr is not None:
        zero_pointers = zeros_ptr + of_pair

    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    # Named here, stages hold for every load of the loop; the launch's own number would leave the scales out.
    for block in tl.range(begin, end, num_stages=NUM_STAGES):
        for step in tl.static_range(BLOCK_K // STEP):
            code_inside = None
            if not EVEN_N:
                code_inside = (tiles[:, None] < TILES) & (words[None, :] >= 0)
            if not EVEN_K:
                code_inside = (tiles[:, None] < TILES) & (words[None, :] < WORDS - (block * BLOCK_K + step * STEP) * 2)
            packed = _load(code_pointers + step * STEP * 2, code_inside)
            packed = tl.reshape(packed, (BLOCK_TILES, STEP // 64, 8, 4, 2, 2))
            if X_STEP == 32:
                halves = tl.split(tl.permute(packed, (0, 1, 2, 3, 5, 4)))
            else:
                # Loads bring both halves of 64 columns; here they are chunks in their order.
                halves = (tl.reshape(tl.permute(packed, (0, 1, 4, 2, 3, 5)), (BLOCK_TILES, STEP // 32, 8, 4, 2)),)
            for half in tl.static_range(STEP // X_STEP):
                offset = step * STEP + half * X_STEP
                group_offset = offset // GROUP_SIZE * 8
                x_inside = x_exists
                pair_inside = None
                if not EVEN_N:
                    pair_inside = pairs < TILES * 8
                if not EVEN_K:
                    x_inside = x_inside & (columns[None, :] < K - block * BLOCK_K - offset)
                    pair_inside = (pairs < TILES * 8) & (tl.full((BLOCK_N // 2,), block * BLOCK_K + offset, tl.int32) < K)
                x = _load(x_pointers + offset, x_inside)
                scales = _load(scale_pointers + group_offset, pair_inside)
                zeros = None
                if zeros_ptr is not None:
                    zeros = _load(zero_pointers + group_offset, pair_inside)
                acc += _scaled_product(halves[half], x, scales, zeros, ACT, ASM)
        x_pointers += BLOCK_K
        code_pointers += BLOCK_K * 2
        if GROUP_SIZE <= BLOCK_K:
            next_group = BLOCK_K // GROUP_SIZE * 8
        else:
            next_group = tl.where((block + 1) % (GROUP_SIZE // BLOCK_K) == 0, 8, 0)
        scale_pointers += next_group
        if zeros_ptr is not None:
            zero_pointers += next_group
    return acc


@triton.jit
def quant_matmul_int4_kernel(
    x_ptr,
    codes_ptr,
    scales_ptr,
    zeros_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    N: tl.constexpr,
    K: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    X_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    ASM: tl.constexpr,
):
    pid_m, pid_n = _tile(num_tokens, N, BLOCK_M, BLOCK_N, GROUP_M)
    begin, end = _blocks(K, BLOCK_K, SPLIT_K)
    tokens = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    acc = sum_int4(
        x_ptr + tokens[:, None].to(tl.int64) * X_STRIDE,
        tokens[:, None] < num_tokens,
        codes_ptr,
        scales_ptr.to(tl.pointer_type(tl.uint32)),
        zeros_ptr,
        pid_n,
        begin,
        end,
        N,
        K,
        GROUP_SIZE,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        NUM_STAGES,
        ASM,
    )
    rows = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    _write(tl.trans(acc), bias_ptr, out_ptr, tokens, rows, num_tokens, N, OUT_STRIDE)


@triton.jit
def quant_matmul_int8_kernel(
    x_ptr,
    codes_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    N: tl.constexpr,
    K: tl.constexpr,
    X_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    ASM: tl.constexpr,
):
    ACT: tl.constexpr = x_ptr.dtype.element_ty
    EVEN_N: tl.constexpr = N % BLOCK_N == 0
    EVEN_K: tl.constexpr = K % BLOCK_K == 0

    pid_m, pid_n = _tile(num_tokens, N, BLOCK_M, BLOCK_N, GROUP_M)
    begin, end = _blocks(K, BLOCK_K, SPLIT_K)
    tokens = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    rows = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_K)
    x_pointers = x_ptr + tokens[:, None].to(tl.int64) * X_STRIDE + (begin * BLOCK_K + columns)[None, :]
    code_pointers = codes_ptr + rows[:, None].to(tl.int64) * K + (begin * BLOCK_K + columns)[None, :]

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for block in tl.range(begin, end):
        x_inside = tokens[:, None] < num_tokens
        code_inside = None
        if not EVEN_N:
            code_inside = rows[:, None] < N
        if not EVEN_K:
            left = columns[None, :] < K - block * BLOCK_K
            x_inside = x_inside & left
            code_inside = (rows[:, None] < N) & left
        x = _load(x_pointers, x_inside)
        codes = _load(code_pointers, code_inside)
        acc = tl.dot(x, tl.trans(widen_int8(codes, ACT, ASM)), acc)
        x_pointers += BLOCK_K
        code_pointers += BLOCK_K
    acc *= tl.load(scales_ptr + rows, mask=rows < N, other=0.0)[None, :]
    _write(acc, bias_ptr, out_ptr, tokens, rows, num_tokens, N, OUT_STRIDE)


@triton.jit
def reduce_splits_kernel(
    partials_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    N: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    SPLIT_K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums f32 [SPLIT_K, tokens, N] over its splits, in their order."""
    token = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < N
    total = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLIT_K):
        total += tl.load(partials_ptr + (split * num_tokens.to(tl.int64) + token) * N + rows, mask=inside, other=0.0)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + rows, mask=inside, other=0.0)
    tl.store(out_ptr + token * OUT_STRIDE + rows, total.to(out_ptr.dtype.element_ty), mask=inside)
