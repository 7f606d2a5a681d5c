"""Seeded bugs of gather_rows."""

from tests.kernels.gpu.mutations import Mutation

_OP = "gather_rows"

MUTATIONS = (
    Mutation("rows in order", _OP, "tl.load(rows_ptr + to)", "to", "gpu_gather_rows", "some"),
    Mutation(
        "padding is row 0",
        _OP,
        ".to(tl.int64)\n    #",
        ".to(tl.int64)\n    token = tl.maximum(token, 0)\n    #",
        "gpu_gather_rows",
        "some",
    ),
    Mutation(
        "past the end is the last row",
        _OP,
        ".to(tl.int64)\n    #",
        ".to(tl.int64)\n    token = tl.minimum(token, num_tokens - 1)\n    #",
        "gpu_gather_rows",
        "some",
    ),
    Mutation("rows taken to be adjacent", _OP, "token * X_STRIDE", "token * H", "gpu_gather_rows", "some"),
    Mutation("out's rows taken to be adjacent", _OP, "to * OUT_STRIDE", "to * H", "gpu_gather_rows", "some"),
    Mutation("only the first block", _OP, "tl.program_id(1) * BLOCK + ", "", "gpu_gather_rows", "several_blocks"),
    Mutation("padding left as it was", _OP, "mask=columns < H", "mask=columns < width", "gpu_gather_rows", "some"),
)
