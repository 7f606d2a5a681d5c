"""Seeded bugs of head_matmul."""

from tests.kernels.gpu.mutations import Mutation


def _seeded(name: str, old: str, new: str, case: str) -> Mutation:
    return Mutation(name, "head_matmul", old, new, "gpu_head_matmul", case)


MUTATIONS = (
    _seeded("the first head's matrix", "head.to(tl.int64) * (N * K)", "0 * head.to(tl.int64)", "absorb"),
    _seeded("heads as long as K", "+ head * X_WIDTH)", "+ head * K)", "absorb"),
    _seeded("results as long as N", "+ head * OUT_WIDTH)", "+ head * N)", "absorb"),
    _seeded("channels beyond N written", "(channels < N)[None, :]", "(channels < OUT_WIDTH)[None, :]", "absorb"),
    _seeded("the last columns dropped", "range(0, K, BLOCK_K)", "range(0, K // BLOCK_K * BLOCK_K, BLOCK_K)", "project"),
    _seeded("rows taken for contiguous", "* X_STRIDE +", "* (X_WIDTH * tl.num_programs(1)) +", "prefill"),
    _seeded("the first tile of tokens for all", "tl.program_id(0) // NUM_N * BLOCK_M", "tl.program_id(0) * 0", "prefill"),
)
