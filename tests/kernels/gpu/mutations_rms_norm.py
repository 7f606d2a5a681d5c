"""Seeded bugs of rms_norm."""

from tests.kernels.gpu.mutations import Mutation

MUTATIONS = (
    Mutation("mean over the padded width", "rms_norm", "axis=0) / D", "axis=0) / BLOCK_D", "gpu_rms_norm", "layer"),
    Mutation("epsilon left out", "rms_norm", "mean_square + eps", "mean_square", "gpu_rms_norm", "epsilon_matters"),
    Mutation("groups not told apart", "rms_norm", "group * D + columns", "columns", "gpu_rms_norm", "heads"),
    Mutation(
        "residual not written",
        "rms_norm",
        "        tl.store(residual, rounded, mask=inside)\n",
        "",
        "gpu_rms_norm",
        "residual",
    ),
    Mutation(
        "weight of the next column", "rms_norm", "weight_ptr + columns", "weight_ptr + columns + 1", "gpu_rms_norm", "one"
    ),
)
