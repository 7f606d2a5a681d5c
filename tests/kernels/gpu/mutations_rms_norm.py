"""Seeded bugs of rms_norm."""

from tests.kernels.gpu.mutations import Mutation

MUTATIONS = (
    Mutation("mean over the padded width", "rms_norm", "axis=0) / D", "axis=0) / BLOCK_D", "gpu_rms_norm", "layer"),
    Mutation("epsilon left out", "rms_norm", "mean_square + eps", "mean_square", "gpu_rms_norm", "epsilon_matters"),
    Mutation("groups not told apart", "rms_norm", "within = group * D + columns", "within = columns", "gpu_rms_norm", "heads"),
    Mutation("groups written over each other", "rms_norm", "OUT_STRIDE + group * D", "OUT_STRIDE", "gpu_rms_norm", "heads"),
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
    Mutation("rows taken to be adjacent", "rms_norm", "token * X_STRIDE", "token * D", "gpu_rms_norm_int8", "several_blocks"),
    Mutation("one scale for all tokens", "rms_norm", "token * SCALES_STRIDE", "0", "gpu_rms_norm_e4m3", "several_blocks"),
    Mutation(
        "weight left out of the codes",
        "rms_norm",
        "store_columns(normalized,",
        "store_columns(row,",
        "gpu_rms_norm_e4m3_block",
        "residual",
    ),
)
