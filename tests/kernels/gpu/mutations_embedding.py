"""Seeded bugs of embedding."""

from tests.kernels.gpu.mutations import Mutation

_OP = "embedding"

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
    Mutation("only the first block", _OP, "tl.program_id(1) * BLOCK + ", "", "gpu_embedding_w16", "several_blocks"),
    Mutation("rows of the wrong length", _OP, "row * WEIGHT_STRIDE", "row * BLOCK", "gpu_embedding_int8", "some"),
    Mutation("out's rows taken to be adjacent", _OP, "token * OUT_STRIDE", "token * H", "gpu_embedding_w16", "some"),
    Mutation("padding left as it was", _OP, "mask=columns < H", "mask=columns < width", "gpu_embedding_w16", "some"),
)
