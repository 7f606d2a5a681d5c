"""Seeded bugs of scaled_add."""

from tests.kernels.gpu.mutations import Mutation

_OP = "scaled_add"

MUTATIONS = (
    Mutation("not scaled", _OP, "factor * x", "x", "gpu_scaled_add", "some"),
    Mutation(
        "the stream lost", _OP, "tl.load(stream, mask=inside, other=0.0).to(tl.float32) + ", "", "gpu_scaled_add", "plain"
    ),
    Mutation("rows of x taken to be adjacent", _OP, "token * X_STRIDE", "token * D", "gpu_scaled_add", "some"),
    Mutation("only the first block", _OP, "tl.program_id(1) * BLOCK + ", "", "gpu_scaled_add", "several_blocks"),
    Mutation("sum not scaled", _OP, "tl.load(scale_ptr) * whole", "whole", "gpu_scaled_sum", "alone"),
    Mutation("branch left out", _OP, "if x_ptr is not None", "if x_ptr is None", "gpu_scaled_sum", "some"),
)
