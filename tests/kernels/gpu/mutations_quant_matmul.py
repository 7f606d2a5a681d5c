"""Seeded bugs of quant_matmul."""

from tests.kernels.gpu.mutations import Mutation


def _mutation(name: str, old: str, new: str, variant: str, case: str) -> Mutation:
    return Mutation(name, "quant_matmul", old, new, f"gpu_quant_matmul_{variant}", case)


MUTATIONS = (
    _mutation(
        "zero of the other eight rows",
        "of_row & 0xFFFF, of_row >> 16",
        "of_row >> 16, of_row & 0xFFFF",
        "int4_asym",
        "decode",
    ),
    _mutation("zero off by one", "tl.full((1, 1, 1, 1), 8,", "tl.full((1, 1, 1, 1), 7,", "int4_sym", "decode"),
    _mutation(
        "nibbles of one word swapped", "_code(words, zeros, 4, ACT)", "_code(words, zeros, 8, ACT)", "int4_sym", "decode"
    ),
    _mutation("columns in another order", "(0, 7, 2, 1, 6, 5, 3, 4)", "(0, 7, 2, 1, 5, 6, 3, 4)", "int4_sym", "decode"),
    _mutation(
        "scale of the first group for all", "group_offset = offset // GROUP_SIZE * 8", "group_offset = 0", "int4_sym", "split"
    ),
    _mutation("groups do not advance", "        scale_pointers += next_group\n", "", "int4_sym", "decode"),
    _mutation(
        "splits start with the first scale", "begin * BLOCK_K // GROUP_SIZE * 8 + pairs % 8", "pairs % 8", "int4_sym", "split"
    ),
    _mutation("codes of the next block", "code_pointers += BLOCK_K * 2", "code_pointers += BLOCK_K", "int4_sym", "decode"),
    _mutation(
        "last columns left out",
        "(columns[None, :] < K - block * BLOCK_K - offset)",
        "(columns[None, :] < K - 8 - block * BLOCK_K - offset)",
        "int4_asym",
        "half_a_chunk",
    ),
    _mutation("token rows taken for contiguous", "line[:, None] * OUT_STRIDE", "line[:, None] * N", "int4_sym", "prefill"),
    _mutation(
        "bias twice",
        "if bias_ptr is not None:\n        product +=",
        "if bias_ptr is not None:\n        product += 2 *",
        "int8",
        "ragged",
    ),
    _mutation(
        "bias lost with splits",
        "        total += tl.load(bias_ptr + rows, mask=inside, other=0.0)\n",
        "        pass\n",
        "int8",
        "split",
    ),
    _mutation("last split left out", "tl.static_range(SPLIT_K)", "tl.static_range(SPLIT_K - 1)", "int8", "split"),
    _mutation(
        "splits sum all of K", "return begin, min(begin + PER_SPLIT, NUM_BLOCKS)", "return begin, NUM_BLOCKS", "int8", "split"
    ),
    _mutation("scale of the next row", "tl.load(scales_ptr + rows,", "tl.load(scales_ptr + rows + 1,", "int8", "ragged"),
)
