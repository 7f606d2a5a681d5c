"""Seeded bugs of quantize_activations; those of the rounding itself are in test_device_functions.py."""

from tests.kernels.gpu.mutations import Mutation

_OP = "quantize_activations"

MUTATIONS = (
    Mutation(
        "rows taken to be adjacent", _OP, "token * X_STRIDE", "token * K", "gpu_quantize_activations_int8", "several_blocks"
    ),
    Mutation(
        "codes taken to be adjacent", _OP, "token * OUT_STRIDE", "token * K", "gpu_quantize_activations_e4m3", "several_blocks"
    ),
    Mutation("one scale for all tokens", _OP, "token * SCALES_STRIDE", "0", "gpu_quantize_activations_int8", "several_blocks"),
    Mutation("padding is part of the row", _OP, "other=0.0", "other=99.0", "gpu_quantize_activations_int8", "several_blocks"),
    Mutation(
        "the next row's first columns are part of the row",
        _OP,
        "mask=columns < K",
        "mask=columns < K + 8",
        "gpu_quantize_activations_e4m3_block",
        "several_blocks",
    ),
    Mutation(
        "scales of the first columns",
        _OP,
        "store_columns(x, first,",
        "store_columns(x, 0 * first,",
        "gpu_quantize_activations_e4m3_tensor",
        "several_blocks",
    ),
)
