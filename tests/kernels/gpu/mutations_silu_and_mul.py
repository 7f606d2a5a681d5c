"""Seeded bugs of the gated activations."""

from tests.kernels.gpu.mutations import Mutation

_OP = "silu_and_mul"
_CLAMPED = "gpu_clamped_silu_and_mul"

MUTATIONS = (
    Mutation("gate times itself", _OP, "x_row, x_row + F, first", "x_row, x_row, first", "gpu_silu_and_mul", "several_blocks"),
    Mutation("gates taken to be adjacent", _OP, "row * GATE_STRIDE", "row * F", "gpu_gelu_gate", "several_blocks"),
    Mutation("sign of the exponent", _OP, "tl.exp(-slope)", "tl.exp(slope)", "gpu_silu_and_mul", "one"),
    Mutation("gate not clamped", _OP, "tl.minimum(gate, LIMIT,", "tl.minimum(gate, 1e30,", _CLAMPED, "several_blocks"),
    Mutation("gate clamped below", _OP, "tl.minimum(gate, LIMIT,", "tl.clamp(gate, -LIMIT, LIMIT,", _CLAMPED, "several_blocks"),
    Mutation("up clamped above alone", _OP, "tl.clamp(up, -LIMIT,", "tl.clamp(up, -1e30,", _CLAMPED, "several_blocks"),
    Mutation("slope left out", _OP, "SLOPE * gate", "gate", _CLAMPED, "one"),
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
        "tl.maximum(amax, tl.abs(gated(x_row, first, F, ACTIVATION, BLOCK, LIMIT, SLOPE)))",
        "tl.abs(gated(x_row, first, F, ACTIVATION, BLOCK, LIMIT, SLOPE))",
        "gpu_silu_and_mul_int8",
        "long_row",
    ),
    Mutation("scale not applied", _OP, "SLOPE) * inverse", "SLOPE)", "gpu_gelu_and_mul_e4m3", "long_row"),
    Mutation(
        "a long row's scale is its inverse",
        _OP,
        "scales_ptr + token * SCALES_STRIDE, scale)",
        "scales_ptr + token * SCALES_STRIDE, inverse)",
        "gpu_silu_and_mul_e4m3",
        "long_row",
    ),
)
