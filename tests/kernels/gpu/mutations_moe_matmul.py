"""Seeded bugs of moe_matmul."""

from tests.kernels.gpu.mutations import Mutation


def _seeded(name: str, old: str, new: str, variant: str, case: str) -> Mutation:
    return Mutation(name, "moe_matmul", old, new, f"gpu_moe_{variant}", case)


MUTATIONS = (
    _seeded("weights of the first expert", "expert * (N * K)", "0 * expert", "matmul_w16", "decode"),
    _seeded(
        "expert of the next block",
        "expert_ids_ptr + block_m)",
        "expert_ids_ptr + (block_m + 1) % num_m)",
        "matmul_w16",
        "decode",
    ),
    _seeded("the token's number taken for the pair's", "(read // TOP_K)", "(read // (TOP_K + 1))", "matmul_w16", "decode"),
    _seeded("one row for all experts of a token", "slots if X_ROWS > 1", "slots if X_ROWS > 99", "matmul_w16", "down"),
    _seeded(
        "routing weight of the first expert",
        "tokens * TOPK_WEIGHTS_STRIDE + slots",
        "tokens * TOPK_WEIGHTS_STRIDE",
        "matmul_w16",
        "down",
    ),
    _seeded("routing weight left out", "    if topk_weights_ptr is not None:", "    if False:", "matmul_int8", "down"),
    _seeded(
        "the last columns dropped", "range(0, K, BLOCK_K)", "range(0, K // BLOCK_K * BLOCK_K, BLOCK_K)", "matmul_w16", "many"
    ),
    _seeded(
        "the last block of pairs dropped",
        'not int8 itself."""\n    num_m = tl.load(num_padded_ptr) // BLOCK_M',
        'not int8 itself."""\n    num_m = tl.load(num_padded_ptr) // BLOCK_M - 1',
        "matmul_w16",
        "many",
    ),
    _seeded("a short group taken for a whole one", "within // rows", "within // GROUP_M", "matmul_w16", "many"),
    _seeded(
        "rows taken for contiguous",
        "x_tile = x_ptr + (tokens * X_STRIDE",
        "x_tile = x_ptr + (tokens * (X_ROWS * K)",
        "matmul_w16",
        "decode",
    ),
    _seeded(
        "scale of another channel",
        "scales_ptr + expert * N + channel_rows",
        "scales_ptr + expert * N + (channel_rows + 1) % N",
        "matmul_int8",
        "many",
    ),
    _seeded(
        "scale of the token, not the row",
        "x_scales_ptr + tokens * X_SCALES_STRIDE + x_slots",
        "x_scales_ptr + tokens * X_SCALES_STRIDE",
        "matmul_e4m3",
        "down",
    ),
    _seeded(
        "scales of the first column block",
        "k_block = start // SCALE_BLOCK",
        "k_block = 0 * start",
        "matmul_e4m3_block",
        "decode",
    ),
    _seeded(
        "scales of the first channel block",
        "block_n * BLOCK_N // SCALE_BLOCK) * K_BLOCKS",
        "0 * block_n) * K_BLOCKS",
        "matmul_e4m3_block",
        "many",
    ),
    _seeded("scales of the first expert", "(expert * N_BLOCKS +", "(0 * expert +", "matmul_e4m3_block", "decode"),
    _seeded("bias of the first expert", "bias_ptr + expert * N", "bias_ptr + 0 * expert", "matmul_w16", "down"),
    _seeded("bias not weighed", "result += tl.load(bias_ptr", "result += 2 * tl.load(bias_ptr", "matmul_int8", "down"),
    _seeded(
        "codes of the first expert",
        "codes_ptr + expert * (TILES",
        "codes_ptr + 0 * expert * (TILES",
        "matmul_int4_sym",
        "decode",
    ),
    _seeded("scales of the first matrix", "tl.uint32)) + expert", "tl.uint32)) + 0 * expert", "matmul_int4_sym", "decode"),
    _seeded("zeros of the first expert", "zeros += expert", "zeros += 0 * expert", "matmul_int4_asym", "decode"),
    _seeded("a tile taken for a block", "block_m * BLOCK_M // ALIGNED", "block_m // 3", "matmul_int4_sym", "two_tiles"),
    _seeded(
        "a block's first tile twice",
        "_pairs(sorted_ids_ptr, block_m * BLOCK_M, num_pairs, TOP_K, X_ROWS, BLOCK_M)\n    TILES",
        "_pairs(sorted_ids_ptr, block_m * BLOCK_M // ALIGNED * ALIGNED, num_pairs, TOP_K, X_ROWS, BLOCK_M)\n    TILES",
        "matmul_int4_sym",
        "two_tiles",
    ),
    _seeded(
        "one row of x for all under int4",
        "x_slots * K)[:, None],\n        exists",
        "0 * x_slots)[:, None],\n        exists",
        "matmul_int4_asym",
        "down",
    ),
    _seeded(
        "e2m1 codes of the first expert",
        "codes_ptr + expert * (CODE_ROWS",
        "codes_ptr + 0 * expert * (CODE_ROWS",
        "matmul_mxfp4",
        "half_a_chunk",
    ),
    _seeded(
        "scales of the first expert's groups",
        "local_scales_ptr + expert",
        "local_scales_ptr + 0 * expert",
        "matmul_mxfp4",
        "half_a_chunk",
    ),
    _seeded(
        "scales of the first expert's rows",
        "row_scales_ptr + expert * N",
        "row_scales_ptr + 0 * expert",
        "matmul_nvfp4",
        "half_a_chunk",
    ),
    _seeded(
        "one row of x for all under mxfp4",
        "x_slots * K)[:, None],\n        row_pointers",
        "0 * x_slots)[:, None],\n        row_pointers",
        "matmul_mxfp4",
        "down",
    ),
    _seeded(
        "channels of the first tile under nvfp4",
        "first = block_n * (BLOCK_N // 16)",
        "first = 0 * block_n",
        "matmul_nvfp4",
        "half_a_chunk",
    ),
    _seeded("int8 weights scaled as activations", "if not WIDENED:", "if WIDENED:", "matmul_int8", "down"),
    _seeded("shared experts left out", "    if shared_ptr is not None:", "    if False:", "sum", "shared"),
    _seeded("an expert left out of the sum", "tl.static_range(TOP_K)", "tl.static_range(TOP_K - 1)", "sum", "wide"),
    _seeded("channels beyond the first block dropped", "tl.program_id(1) * BLOCK_N", "0 * tl.program_id(1)", "sum", "wide"),
)
