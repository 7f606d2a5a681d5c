"""Seeded bugs of mla_attention."""

from tests.kernels.gpu.mutations import Mutation


def _seeded(name: str, old: str, new: str, case: str) -> Mutation:
    return Mutation(name, "mla_attention", old, new, "gpu_mla_attention", case)


MUTATIONS = (
    _seeded("not causal", "seen = seen & (visible[None, :] <= positions[:, None])", "seen = seen", "prefill"),
    _seeded("a token does not see itself", "visible[None, :] <= positions", "visible[None, :] < positions", "mixed"),
    _seeded("the accumulator is not rescaled", "acc * rescale[:, None]", "acc", "prefill"),
    _seeded("the sum is not rescaled", "total * rescale +", "total +", "prefill"),
    _seeded(
        "rotary part left out", "scores = tl.dot(q_pe, tl.trans(k_pe))", "scores = 0 * tl.dot(q_pe, tl.trans(k_pe))", "decode"
    ),
    _seeded("the first block for all", "table + start // BLOCK_SIZE)", "table + 0 * start)", "many_heads"),
    _seeded("blocks of the first sequence", "sequence.to(tl.int64) * TABLE_STRIDE", "0 * sequence.to(tl.int64)", "decode"),
    _seeded("head of the next row", "read % H * L", "(read + 1) % H * L", "decode"),
    _seeded("queries of contiguous rows", "token * Q_STRIDE", "token * (H * L)", "decode"),
    _seeded(
        "what lies beyond the end is read",
        "inside = (visible < end)[:, None]",
        "inside = (visible >= 0)[:, None]",
        "many_heads",
    ),
    _seeded(
        "stretches overlap", "end = tl.minimum(begin + per_split, end)", "end = tl.minimum(begin + 2 * per_split, end)", "split"
    ),
    _seeded(
        "the last stretch left out of the sum",
        "for split in range(NUM_SPLITS)",
        "for split in range(NUM_SPLITS - 1)",
        "many_heads",
    ),
    _seeded("stretches weighed alike", "acc += share *", "acc += tl.exp2(share * 0) *", "split"),
    _seeded("tiles of the next sequence", "middle <= tile", "middle < tile", "mixed"),
    _seeded("scale left out", "scores) * scale_log2", "scores) * 1.44", "decode"),
)
