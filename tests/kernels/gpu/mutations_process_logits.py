"""Seeded bugs of process_logits and count_tokens."""

from tests.kernels.gpu.mutations import Mutation

_OP = "process_logits"

MUTATIONS = (
    Mutation("bias of the next token", _OP, "LOGITS_STRIDE + ids", "LOGITS_STRIDE + (ids ^ 1)", "gpu_process_logits", "some"),
    Mutation("biases of the first row", _OP, "row * BIASES_STRIDE", "0", "gpu_process_logits", "some"),
    Mutation("negative logits divided", _OP, "x * repetition)", "x / repetition)", "gpu_process_logits", "some"),
    Mutation("repetition spares the prompt", _OP, "tl.where(seen > 0", "tl.where(seen > 1", "gpu_process_logits", "some"),
    Mutation("the prompt is charged", _OP, "tl.where(counts > 0", "tl.where(seen > 0", "gpu_process_logits", "some"),
    Mutation("count twice as large", _OP, "seen >> 1", "seen", "gpu_process_logits", "some"),
    Mutation(
        "slots not looked up", _OP, "slot * SEEN_STRIDE + tokens", "row * SEEN_STRIDE + tokens", "gpu_process_logits", "some"
    ),
    Mutation("only the first block", _OP, "tl.program_id(1) * BLOCK + ", "", "gpu_process_logits", "several_blocks"),
    Mutation("a token counted half", _OP, "tl.load(entry) + 2", "tl.load(entry) + 1", "gpu_count_tokens", "some"),
    Mutation(
        "counted for the row, not its slot",
        _OP,
        "slot * SEEN_STRIDE + tl.load",
        "row * SEEN_STRIDE + tl.load",
        "gpu_count_tokens",
        "some",
    ),
)
