"""Seeded bugs of embedding."""

from tests.kernels.gpu.mutations import Mutation

_OP = "embedding"
#: What follows in the kernel of w16 and int8, and not in that of int4.
_BEFORE_ROWS = "tl.arange(0, BLOCK)\n    row = tl.load(token_ids_ptr + token).to(tl.int64)\n    there"

MUTATIONS = (
    Mutation(
        "past the end is the last row",
        _OP,
        ".to(tl.int64)\n    there",
        ".to(tl.int64)\n    row = tl.minimum(row, V - 1)\n    there",
        "gpu_embedding_int8",
        "some",
    ),
    Mutation(
        "padding is row 0",
        _OP,
        ".to(tl.int64)\n    there",
        ".to(tl.int64)\n    row = tl.maximum(row, 0)\n    there",
        "gpu_embedding_w16",
        "some",
    ),
    Mutation("scale of the first row", _OP, "tl.where(there, row, 0)", "0", "gpu_embedding_int8", "some"),
    Mutation("scale of the token, not of the row", _OP, "tl.where(there, row, 0)", "token", "gpu_embedding_int8", "some"),
    Mutation(
        "only the first block",
        _OP,
        f"tl.program_id(1) * BLOCK + {_BEFORE_ROWS}",
        _BEFORE_ROWS,
        "gpu_embedding_w16",
        "several_blocks",
    ),
    Mutation("rows of the wrong length", _OP, "row * WEIGHT_STRIDE", "row * BLOCK", "gpu_embedding_int8", "some"),
    Mutation(
        "out's rows taken to be adjacent",
        _OP,
        "token * OUT_STRIDE + columns, values.to(out_ptr.dtype.element_ty), mask=columns < H)\n\n",
        "token * H + columns, values.to(out_ptr.dtype.element_ty), mask=columns < H)\n\n",
        "gpu_embedding_w16",
        "some",
    ),
    Mutation("padding left as it was", _OP, "mask=columns < H)\n\n", "mask=columns < width)\n\n", "gpu_embedding_w16", "some"),
    Mutation(
        "columns of a pair swapped", _OP, "16 * (columns % 2)", "16 * (1 - columns % 2)", "gpu_embedding_int4_sym", "some"
    ),
    Mutation("rows 8 to 15 are rows 0 to 7", _OP, "row % 16 // 8", "row * 0", "gpu_embedding_int4_sym", "some"),
    Mutation("zero of the other row of a pair", _OP, "16 * s", "16 - 16 * s", "gpu_embedding_int4_asym", "some"),
    Mutation("groups of 64", _OP, "(H // NUM_GROUPS)", "64", "gpu_embedding_int4_sym", "several_blocks"),
)
