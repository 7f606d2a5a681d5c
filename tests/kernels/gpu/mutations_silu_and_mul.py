"""Seeded bugs of silu_and_mul and gelu_and_mul."""

from tests.kernels.gpu.mutations import Mutation

_OP = "silu_and_mul"

MUTATIONS = (
    Mutation("gate times itself", _OP, "x_row, x_row + F, first", "x_row, x_row, first", "gpu_silu_and_mul", "several_blocks"),
    Mutation("gates taken to be adjacent", _OP, "token * GATE_STRIDE", "token * F", "gpu_gelu_gate", "several_blocks"),
    Mutation("sign of the exponent", _OP, "tl.exp(-slope)", "tl.exp(slope)", "gpu_silu_and_mul", "one"),
    Mutation("silu for gelu", _OP, 'ACTIVATION == "silu"', 'ACTIVATION != ""', "gpu_gelu_and_mul", "several_blocks"),
    Mutation("cube left out", _OP, "0.07135481282636172 * gate * gate", "0.0", "gpu_gelu_and_mul", "several_blocks"),
    Mutation(
        "rows taken to be adjacent",
        _OP,
        "gated(x_ptr + token * X_STRIDE",
        "gated(x_ptr + token * (2 * F)",
        "gpu_silu_and_mul",
        "several_blocks",
    ),
    Mutation(
        "one scale for all tokens",
        _OP,
        "scales_ptr, token * SCALES_STRIDE",
        "scales_ptr, 0",
        "gpu_silu_and_mul_int8",
        "several_blocks",
    ),
    Mutation(
        "scale of the last block only",
        _OP,
        "tl.maximum(amax, tl.abs(gated(x_row, first, F, ACTIVATION, BLOCK)))",
        "tl.abs(gated(x_row, first, F, ACTIVATION, BLOCK))",
        "gpu_silu_and_mul_int8",
        "long_row",
    ),
    Mutation("scale not applied", _OP, "BLOCK) * inverse", "BLOCK)", "gpu_gelu_and_mul_e4m3", "long_row"),
    Mutation(
        "a long row's scale is its inverse",
        _OP,
        "scales_ptr + token * SCALES_STRIDE, scale)",
        "scales_ptr + token * SCALES_STRIDE, inverse)",
        "gpu_silu_and_mul_e4m3",
        "long_row",
    ),
)
