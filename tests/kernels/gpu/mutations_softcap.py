"""Seeded bugs of softcap."""

from tests.kernels.gpu.mutations import Mutation

_OP = "softcap"

MUTATIONS = (
    Mutation("sign lost", _OP, "tl.where(x < 0.0, -large, large)", "large", "gpu_softcap", "some"),
    Mutation("no polynomial where tanh cancels", _OP, "size < 0.625", "size < 0.0", "gpu_softcap", "small"),
    Mutation("polynomial everywhere", _OP, "size < 0.625", "size < 9.0", "gpu_softcap", "some"),
    Mutation("not scaled back", _OP, "softcap * tanh", "tanh", "gpu_softcap", "some"),
    Mutation("rows taken to be adjacent", _OP, "* X_STRIDE", "* V", "gpu_softcap", "some"),
    Mutation("only the first block", _OP, "tl.program_id(1) * BLOCK + ", "", "gpu_softcap", "several_blocks"),
)
