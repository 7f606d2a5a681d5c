"""Seeded bugs of scaled_matmul."""

from tests.kernels.gpu.mutations import Mutation

_OP = "scaled_matmul"
MUTATIONS = (
    Mutation(
        "last block of K unmasked",
        _OP,
        "WHOLE_K: tl.constexpr = K % BLOCK_K == 0",
        "WHOLE_K: tl.constexpr = True",
        "gpu_matmul",
        "ragged",
    ),
    Mutation("rows of x taken for dense", _OP, "[:, None] * X_STRIDE", "[:, None] * K", "gpu_matmul", "rows_apart"),
    Mutation("splits overlap", _OP, "start + PER_SPLIT, width)", "start + PER_SPLIT + BLOCK_K, width)", "gpu_matmul", "decode"),
    Mutation("last split not added", _OP, "static_range(SPLIT_K)", "static_range(SPLIT_K - 1)", "gpu_matmul", "decode"),
    Mutation(
        "partials of splits on top of each other",
        _OP,
        "row = tl.program_id(1).to(tl.int64) * num_tokens + token",
        "row = tl.program_id(1).to(tl.int64) * 0 + token",
        "gpu_scaled_matmul_int8",
        "decode",
    ),
    Mutation("bias left out", _OP, "if bias_ptr is not None:", "if False:", "gpu_matmul", "ragged"),
    Mutation(
        "scale of x left out",
        _OP,
        "x_scale[:, None] * scale[None, :]",
        "scale[None, :]",
        "gpu_scaled_matmul_int8",
        "ragged",
    ),
    Mutation(
        "one scale for all channels",
        _OP,
        "scales_ptr + channel, mask",
        "scales_ptr + channel * 0, mask",
        "gpu_scaled_matmul_e4m3",
        "prefill",
    ),
    Mutation(
        "scale of the weight for that of x",
        _OP,
        "tl.load(x_scales_ptr) * tl.load(scales_ptr)",
        "tl.load(scales_ptr) * tl.load(scales_ptr)",
        "gpu_scaled_matmul_e4m3_tensor",
        "decode",
    ),
    Mutation(
        "scales of the first 128 of K", _OP, "group = k // 128", "group = k // 1024", "gpu_scaled_matmul_e4m3_block", "decode"
    ),
    Mutation(
        "scales of the first 128 channels",
        _OP,
        "first_channel // 128 * tl.cdiv(K, 128)",
        "first_channel // 256 * tl.cdiv(K, 128)",
        "gpu_scaled_matmul_e4m3_block",
        "prefill",
    ),
    Mutation(
        "tokens' scales a row short",
        _OP,
        "* X_SCALES_STRIDE + group",
        "* (X_SCALES_STRIDE - 1) + group",
        "gpu_scaled_matmul_e4m3_block",
        "ragged",
    ),
    Mutation(
        "wrong tile of channels fetched",
        _OP,
        "weight.load([first_channel, k // PACK])",
        "weight.load([first_token, k // PACK])",
        "gpu_matmul",
        "prefill",
    ),
    Mutation(
        "last token not stored",
        _OP,
        "inside = (token < num_tokens)[:, None] & (channel < N)[None, :]",
        "inside = (token < num_tokens - 1)[:, None] & (channel < N)[None, :]",
        "gpu_matmul",
        "ragged",
    ),
)
